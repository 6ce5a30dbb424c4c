//! Lines of text files from any system: ended by LF, by CRLF, or by CR alone.

/// The lines of a text, without their ends; an empty text has none.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = (!text.is_empty()).then_some(text);
    text.into_iter()
        .flat_map(|text| text.split('\n'))
        .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Counts lines up to places in a text, which must be asked for in ascending order.
pub(crate) struct LineCounter<'a> {
    text: &'a [u8],
    /// The place up to which lines are counted, and the line that it is in.
    at: usize,
    line: usize,
}

impl<'a> LineCounter<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            line: 1,
        }
    }

    /// The line, counted from 1, of the first byte from `at` on that does not end a line. A parser
    /// that passes over empty lines reports a record before it has passed over them.
    pub fn line_of(&mut self, at: usize) -> usize {
        let blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let rest = self.text.get(at..).unwrap_or_default();
        let end = (at + rest.iter().take_while(blank).count()).min(self.text.len());
        while self.at < end {
            let crlf = self.text[self.at..].starts_with(b"\r\n");
            self.line += usize::from(blank(&&self.text[self.at]));
            self.at += 1 + usize::from(crlf);
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_three_ways() {
        assert_eq!(lines("").count(), 0);
        for text in ["a\nb\n\nc", "a\r\nb\r\n\r\nc", "a\rb\r\rc", "a\rb\n\r\nc"] {
            assert_eq!(lines(text).collect::<Vec<_>>(), ["a", "b", "", "c"]);
            let mut counter = LineCounter::new(text);
            // `b` from the end of the line before it, `c` from the empty line.
            let places = [0, 1, text.find('b').unwrap() + 1, text.find('c').unwrap()];
            assert_eq!(
                places.map(|at| counter.line_of(at)),
                [1, 2, 4, 4],
                "{text:?}"
            );
        }
    }
}
