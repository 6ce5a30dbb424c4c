//! Writes numbers for people: with the digits that mean something, and with their unit. Files for
//! programs (JSON, CSV) keep every digit and do not go through here.

/// A share in percent, for example `77.78 %`.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Bytes in MiB: `0.04 MiB`, `12.3 MiB`, `1234 MiB`.
pub fn mebibytes(bytes: usize) -> String {
    let number = in_mebibytes(bytes);
    let decimals = match number {
        0.0 => 1,
        ..1.0 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} MiB")
}

/// Bytes as a number of MiB, for tables whose columns carry the unit.
pub fn in_mebibytes(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// Throughput in three significant digits, for example `161 images/s`.
pub fn speed(images_per_second: f64) -> String {
    format!("{} images/s", significant(images_per_second))
}

/// A duration in three significant digits, but at most two decimals: `0.06 s`, `4.57 s`, `123 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds < 1.0 {
        true => format!("{seconds:.2} s"),
        false => format!("{} s", significant(seconds)),
    }
}

/// A short duration, given in seconds, in three significant digits of milliseconds: `12.3 ms`.
pub fn milliseconds(seconds: f64) -> String {
    format!("{} ms", significant(1e3 * seconds))
}

/// Arithmetic per second in three significant digits, for example `98.7 GFLOP/s`.
pub fn gigaflops(gflop_per_second: f64) -> String {
    format!("{} GFLOP/s", significant(gflop_per_second))
}

/// Three significant digits, and all of those before the point: `0.0123`, `1.50`, `653`, `12346`.
/// Terminals and logs use it; [`brief`] is the same for pages and tables.
pub fn significant(number: f64) -> String {
    let size = number.abs().clamp(1e-3, 999.0).log10().floor();
    let decimals = if number == 0.0 { 0.0 } else { 2.0 - size };
    format!("{number:.*}", decimals as usize)
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

/// Three significant digits, with thin spaces between the thousands of large numbers.
pub fn brief(number: f64) -> String {
    match number >= 999.5 {
        true => grouped(number.round() as usize),
        false => significant(number),
    }
}

/// A number with the prefix of its multiple: `12 k`, `3.4 M`.
pub fn short(number: f64) -> String {
    let multiples = [
        (1e12, "\u{202f}T"),
        (1e9, "\u{202f}G"),
        (1e6, "\u{202f}M"),
        (1e3, "\u{202f}k"),
    ];
    let fitting = multiples.into_iter().find(|(size, _)| number >= *size);
    let (size, prefix) = fitting.unwrap_or((1.0, ""));
    // A tick such as 0.1 + 0.2 must not show the rounding error of its sum.
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
    fn quantities_have_their_unit_and_no_idle_digits() {
        assert_eq!(speed(160.9992), "161 images/s");
        assert_eq!(speed(12_345.6), "12346 images/s");
        for (duration, text) in [(0.064, "0.06 s"), (4.5678, "4.57 s"), (123.4, "123 s")] {
            assert_eq!(seconds(duration), text);
        }
        assert_eq!(milliseconds(0.012_345), "12.3 ms");
        assert_eq!(gigaflops(98.76), "98.8 GFLOP/s");
        assert_eq!(percent(0.777_77), "77.78 %");
        for (bytes, text) in [
            (0, "0.0 MiB"),
            (40 << 10, "0.04 MiB"),
            (3 << 20, "3.0 MiB"),
            (54_000_000, "51.5 MiB"),
            (1_294_000_000, "1234 MiB"),
        ] {
            assert_eq!(mebibytes(bytes), text);
        }
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
