//! Which instructions the kernels use: the best that the CPU has, or those that the environment
//! variable `PEFT_OPS` names. It is read once.

use std::sync::OnceLock;

/// What operations run on the CPU: the kernels of one instruction set, or none.
///
/// Results of different levels may differ in the last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No kernels: Burn's own operations.
    Off,
    /// No kernels: the operations that accelerators run, composed of Burn's.
    Composed,
    /// Kernels with what every CPU of the architecture has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// As [`Avx512`](Self::Avx512), and AVX512-BF16: linear layers multiply bf16 tensors as they are, in twice as many
    /// products a cycle. What is computed in `f32` is the same to the bit.
    Avx512Bf16,
}

impl Level {
    /// All levels, the best last.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::Composed,
        Self::Baseline,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16,
    ];

    /// The name in `PEFT_OPS`, such as `avx2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Composed => "composed",
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// The level of what is computed in `f32`.
    pub fn of_f32(self) -> Self {
        match self {
            Self::Avx512Bf16 => Self::Avx512,
            level => level,
        }
    }

    /// Returns whether the kernels of this crate run at this level, rather than Burn's operations.
    pub(crate) fn has_kernels(self) -> bool {
        !matches!(self, Self::Off | Self::Composed)
    }

    /// Whether this CPU has the instructions.
    pub(crate) fn available(self) -> bool {
        match self {
            Self::Off | Self::Composed | Self::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => false,
        }
    }
}

/// The level that operations run at: the best that the CPU has, or what `PEFT_OPS` names.
///
/// # Errors
/// If `PEFT_OPS` names no level, or one that this CPU does not have.
pub fn level() -> Result<Level, &'static str> {
    static LEVEL: OnceLock<Result<Level, String>> = OnceLock::new();
    let wanted = || chosen(std::env::var_os("PEFT_OPS")?.to_string_lossy().as_ref());
    let level = LEVEL.get_or_init(|| wanted().unwrap_or_else(|| Ok(best())));
    level.as_ref().copied().map_err(String::as_str)
}

/// The level of what is computed in `f32`, for code that cannot return an error.
///
/// # Panics
/// Where [`level`] is an error: running at another level than the user asked for would be worse.
pub(crate) fn current() -> Level {
    in_force().of_f32()
}

/// Whether linear layers multiply bf16 tensors as they are. Elsewhere all kernels widen them.
///
/// # Panics
/// As [`current`].
pub(crate) fn multiplies_bf16() -> bool {
    in_force() == Level::Avx512Bf16
}

fn in_force() -> Level {
    level().unwrap_or_else(|message| panic!("{message}"))
}

fn best() -> Level {
    let available = Level::ALL.into_iter().rev().find(|level| level.available());
    available.unwrap_or(Level::Baseline)
}

/// The level of that name; none for an empty name, which is as good as none in the environment.
fn chosen(name: &str) -> Option<Result<Level, String>> {
    if name.is_empty() {
        return None;
    }
    let names = |levels: Vec<Level>| {
        let names: Vec<&str> = levels.into_iter().map(Level::name).collect();
        names.join(", ")
    };
    let Some(level) = Level::ALL.into_iter().find(|level| level.name() == name) else {
        let all = names(Level::ALL.to_vec());
        return Some(Err(format!("PEFT_OPS: expected {all}, got {name:?}")));
    };
    if level.available() {
        return Some(Ok(level));
    }
    let available = names(
        Level::ALL
            .into_iter()
            .filter(|level| level.available())
            .collect(),
    );
    Some(Err(format!(
        "PEFT_OPS: this CPU does not have {name}; it has {available}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_a_name_and_others_are_refused() {
        assert_eq!(chosen("off"), Some(Ok(Level::Off)));
        assert_eq!(chosen("baseline"), Some(Ok(Level::Baseline)));
        assert_eq!(chosen(""), None);
        let message = chosen("avx3").unwrap().unwrap_err();
        assert!(
            message.contains("off, composed, baseline, avx2, avx512, avx512-bf16, got \"avx3\""),
            "{message}"
        );
    }

    #[test]
    fn a_level_that_the_cpu_lacks_is_refused() {
        for level in Level::ALL {
            let name = level.name();
            match chosen(name).unwrap() {
                Ok(chosen) => assert!(chosen == level && level.available()),
                Err(message) => {
                    assert!(!level.available());
                    assert!(message.contains(&format!("does not have {name}")));
                }
            }
        }
        assert!(best().available() && best().has_kernels());
    }
}
