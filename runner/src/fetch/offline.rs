//! Whether this process may use the network.

use std::sync::atomic::{AtomicBool, Ordering};

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// The variable that forbids the hub's own library, and this program, to use the network.
pub const VARIABLE: &str = "HF_HUB_OFFLINE";

/// Forbids this process to fetch anything, as `--offline` asks.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// The option or variable that forbids fetching, for a message; `None` if nothing does.
pub fn forbidden() -> Option<&'static str> {
    if FORBIDDEN.load(Ordering::Relaxed) {
        return Some("`--offline`");
    }
    let value = std::env::var(VARIABLE).unwrap_or_default();
    is_true(&value).then_some("`HF_HUB_OFFLINE`")
}

/// The values that the hub's own library takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_is_what_the_hub_takes_for_yes() {
        assert!(
            ["1", "ON", "Yes", "true"]
                .map(is_true)
                .iter()
                .all(|yes| *yes)
        );
        assert!(
            !["", "0", "off", "no", "false"]
                .map(is_true)
                .iter()
                .any(|yes| *yes)
        );
    }
}
