//! What accelerators run for an operation, which the environment variable `PEFT_OPS_CUDA` changes.

use std::sync::OnceLock;

/// Names the code that accelerators run for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accelerated {
    /// Burn's own operation, but for convolutions. The variable is `off`.
    Burns,
    /// Operations composed of Burn's, with a backward pass of their own. The variable is `composed`.
    Composed,
    /// Kernels of this crate where they apply. The variable is `kernels`, or not set.
    Kernels,
}

impl Accelerated {
    const ALL: [Self; 3] = [Self::Burns, Self::Composed, Self::Kernels];

    /// The name in `PEFT_OPS_CUDA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Burns => "off",
            Self::Composed => "composed",
            Self::Kernels => "kernels",
        }
    }
}

/// Returns what accelerators run in this process.
///
/// # Errors
/// If `PEFT_OPS_CUDA` names nothing of it.
pub fn accelerated() -> Result<Accelerated, &'static str> {
    static CHOSEN: OnceLock<Result<Accelerated, String>> = OnceLock::new();
    let wanted = std::env::var_os("PEFT_OPS_CUDA").unwrap_or_default();
    let chosen = CHOSEN.get_or_init(|| chosen(&wanted.to_string_lossy()));
    chosen.as_ref().copied().map_err(String::as_str)
}

/// [`accelerated`] for code that cannot return an error.
///
/// # Panics
/// Where it is an error: running something else than the user asked for would be worse.
pub(crate) fn current() -> Accelerated {
    accelerated().unwrap_or_else(|message| panic!("{message}"))
}

/// What has that name; kernels for an empty one, which is as good as none in the environment.
fn chosen(name: &str) -> Result<Accelerated, String> {
    if name.is_empty() {
        return Ok(Accelerated::Kernels);
    }
    let found = Accelerated::ALL.into_iter().find(|all| all.name() == name);
    found.ok_or_else(|| {
        let names = Accelerated::ALL.map(Accelerated::name).join(", ");
        format!("PEFT_OPS_CUDA: expected {names}, got {name:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_others_are_refused() {
        for all in Accelerated::ALL {
            assert_eq!(chosen(all.name()), Ok(all));
        }
        assert_eq!(chosen(""), Ok(Accelerated::Kernels));
        let message = chosen("on").unwrap_err();
        assert_eq!(
            message,
            "PEFT_OPS_CUDA: expected off, composed, kernels, got \"on\""
        );
    }
}
