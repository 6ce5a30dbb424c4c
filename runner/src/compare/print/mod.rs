//! Prints a report: as text for a terminal, as Markdown, as one line per trial for other programs, and
//! (by [`super::page`]) as HTML.

pub mod lines;
pub mod markdown;
pub mod text;

#[cfg(test)]
mod tests;
