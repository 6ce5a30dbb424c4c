//! Which instructions the kernels are compiled for: the best that the CPU has, or what the
//! environment variable `PEFT_OPS` says. Read once.

use std::sync::OnceLock;

/// What runs on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No kernels: Burn's own operations.
    Off,
    /// Kernels with what every CPU of the architecture has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// Spellings in `PEFT_OPS`, the best last.
const NAMES: [(&str, Level); 4] = [
    ("off", Level::Off),
    ("baseline", Level::Baseline),
    ("avx2", Level::Avx2),
    ("avx512", Level::Avx512),
];

impl Level {
    fn available(self) -> bool {
        match self {
            Self::Off | Self::Baseline => true,
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
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }
}

/// What runs: the best that the CPU has, or what `PEFT_OPS` says.
///
/// # Errors
/// If `PEFT_OPS` names no level, or one that this CPU does not have.
pub fn level() -> Result<Level, &'static str> {
    static LEVEL: OnceLock<Result<Level, String>> = OnceLock::new();
    let wanted = || chosen(std::env::var_os("PEFT_OPS")?.to_string_lossy().as_ref());
    let level = LEVEL.get_or_init(|| wanted().unwrap_or_else(|| Ok(best())));
    level.as_ref().copied().map_err(String::as_str)
}

/// What kernels are called for.
///
/// # Panics
/// Where [`level`] is an error: a run that is not what was asked for is none.
pub(crate) fn current() -> Level {
    level().unwrap_or_else(|message| panic!("{message}"))
}

fn best() -> Level {
    let available = NAMES.iter().rev().find(|(_, level)| level.available());
    available.map_or(Level::Baseline, |(_, level)| *level)
}

/// The level of that name; none for an empty one.
fn chosen(name: &str) -> Option<Result<Level, String>> {
    let listed = |names: Vec<&str>| names.join(", ");
    match NAMES.iter().find(|(other, _)| *other == name) {
        _ if name.is_empty() => None,
        Some((_, level)) if level.available() => Some(Ok(*level)),
        Some(_) => {
            let available = NAMES.iter().filter(|(_, level)| level.available());
            let available = listed(available.map(|(name, _)| *name).collect());
            Some(Err(format!(
                "PEFT_OPS: this CPU does not have {name}; it has {available}"
            )))
        }
        None => {
            let all = listed(NAMES.iter().map(|(name, _)| *name).collect());
            Some(Err(format!("PEFT_OPS: expected {all}, got {name:?}")))
        }
    }
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
            message.contains("off, baseline, avx2, avx512, got \"avx3\""),
            "{message}"
        );
    }

    #[test]
    fn a_level_that_the_cpu_has_not_is_refused() {
        for (name, level) in NAMES {
            match chosen(name).unwrap() {
                Ok(chosen) => assert!(chosen == level && level.available()),
                Err(message) => {
                    assert!(!level.available());
                    assert!(message.contains(&format!("does not have {name}")));
                }
            }
        }
        assert!(best().available() && best() != Level::Off);
    }
}
