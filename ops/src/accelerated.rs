//! What accelerators run for an operation, which the environment variable `PEFT_OPS_CUDA` changes.

use std::sync::OnceLock;

/// What accelerators run for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accelerated {
    /// Burn's own operation, but for convolutions. The variable is `off`.
    Burns,
    /// Operations composed of Burn's, with a backward pass of their own. The variable is `composed`.
    Composed,
    /// Kernels of this crate where they apply.
    Kernels,
}

impl Accelerated {
    /// The name in `PEFT_OPS_CUDA`, and `kernels`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Burns => "off",
            Self::Composed => "composed",
            Self::Kernels => "kernels",
        }
    }
}

/// What accelerators run in this process.
pub fn accelerated() -> Accelerated {
    static CHOSEN: OnceLock<Accelerated> = OnceLock::new();
    *CHOSEN.get_or_init(|| chosen(std::env::var("PEFT_OPS_CUDA").ok().as_deref()))
}

fn chosen(value: Option<&str>) -> Accelerated {
    match value {
        Some("off") => Accelerated::Burns,
        Some("composed") => Accelerated::Composed,
        _ => Accelerated::Kernels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_turn_kernels_off() {
        for level in [Accelerated::Burns, Accelerated::Composed] {
            assert_eq!(chosen(Some(level.name())), level);
        }
        assert_eq!(chosen(None), Accelerated::Kernels);
        assert_eq!(chosen(Some("on")), Accelerated::Kernels);
    }
}
