//! Prints a report: as text for a terminal, as Markdown, as one line per trial for other programs,
//! or, together with [`super::page`], all of it as files.

pub mod files;
pub mod lines;
pub mod markdown;
pub mod text;

#[cfg(test)]
mod tests;
