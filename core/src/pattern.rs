//! Regular expressions as configurations and other libraries' files write them.

/// A compiled regular expression.
///
/// The engine with linear time is tried first. Only patterns that it cannot express, with
/// look-around or backreferences, go to one that backtracks.
pub(crate) enum Pattern {
    Linear(regex::Regex),
    // This variant is much larger than the other.
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// If the pattern is not valid, with the message of the engine.
    pub fn new(pattern: &str) -> Result<Self, String> {
        match regex::Regex::new(pattern) {
            Ok(regex) => Ok(Self::Linear(regex)),
            Err(_) => match fancy_regex::Regex::new(pattern) {
                Ok(regex) => Ok(Self::Backtracking(Box::new(regex))),
                Err(e) => Err(e.to_string()),
            },
        }
    }

    /// Returns the `names` in which the pattern is found.
    ///
    /// # Errors
    /// If it backtracks beyond the limit of the engine.
    pub fn matching<'n>(&self, names: &[&'n str]) -> Result<Vec<&'n str>, String> {
        let mut found = Vec::new();
        for name in names {
            let is_match = match self {
                Self::Linear(regex) => regex.is_match(name),
                Self::Backtracking(regex) => regex.is_match(name).map_err(|e| e.to_string())?,
            };
            if is_match {
                found.push(*name);
            }
        }
        Ok(found)
    }

    /// Returns the number in the first group of the pattern, if the pattern is found.
    ///
    /// # Errors
    /// See [`matching`](Self::matching).
    pub fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let digits = match self {
            Self::Linear(regex) => regex
                .captures(name)
                .and_then(|groups| Some(groups.get(1)?.as_str())),
            Self::Backtracking(regex) => regex
                .captures(name)
                .map_err(|e| e.to_string())?
                .and_then(|groups| Some(groups.get(1)?.as_str())),
        };
        Ok(digits.and_then(|digits| digits.parse().ok()))
    }
}
