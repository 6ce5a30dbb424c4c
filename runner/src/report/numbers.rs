//! Numbers for people.

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Bytes in MiB.
pub fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", in_mebibytes(bytes))
}

/// The same as a number.
pub fn in_mebibytes(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// A whole number with thin spaces between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// About three significant digits, and all of those before the point.
pub fn brief(number: f64) -> String {
    if number >= 999.5 {
        return grouped(number.round() as usize);
    }
    let size = number.abs().clamp(1e-3, 999.0).log10().floor();
    let decimals = if number == 0.0 { 0.0 } else { 2.0 - size };
    format!("{number:.*}", decimals as usize)
}

/// With the prefix of the unit's multiple: 12 k, 3.4 M.
pub fn short(number: f64) -> String {
    let multiples = [(1e9, "\u{202f}G"), (1e6, "\u{202f}M"), (1e3, "\u{202f}k")];
    let fitting = multiples.into_iter().find(|(size, _)| number >= *size);
    let (size, prefix) = fitting.unwrap_or((1.0, ""));
    // Digits that a float has beyond those that were meant do not show.
    let value = (number / size * 1e6).round() / 1e6;
    format!("{value}{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(496_410), "496\u{202f}410");
        assert_eq!(grouped(1_000_000), "1\u{202f}000\u{202f}000");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (1.5, "1.50"),
            (42.25, "42.2"),
            (653.4, "653"),
            (12_345.6, "12\u{202f}346"),
        ] {
            assert_eq!(brief(number), text);
        }
        assert_eq!(short(2e4), "20\u{202f}k");
        assert_eq!(short(1.5e6), "1.5\u{202f}M");
        assert_eq!(short(0.2), "0.2");
    }
}
