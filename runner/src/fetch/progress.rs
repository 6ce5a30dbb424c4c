//! The bar of a download, which only a terminal shows.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how much of a file has arrived.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar for a file, of which `size` is known.
    pub fn new(name: &str, size: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:28}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        Self(bar)
    }

    /// Says how much is there by now.
    pub fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Says how much there will be.
    pub fn of(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A number of bytes for people, such as `391.2 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_counted_in_units_of_1024() {
        let shown = [0, 1023, 1024, 410_203_136, 5 << 40].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "391.2 MiB", "5.0 TiB"]);
    }
}
