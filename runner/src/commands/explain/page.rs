//! The page that shows everything that was painted: one file that loads nothing.

use std::fmt::Write;

use peft_core::saliency::Strength;

use crate::report::document::{escape, note, page, section};

const STYLES: &str = "figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }\n\
                      figcaption { font-size: 0.85rem; }\n";

/// A picture with its caption.
pub struct Figure {
    /// The words below it.
    pub caption: String,
    /// A PNG.
    pub png: Vec<u8>,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

/// A row of the table of strengths.
pub struct Row {
    /// The boundary in words.
    pub place: String,
    /// How strong the prompt is there.
    pub strength: Strength,
}

/// The page: prompts, then a section for each image.
pub fn html(
    title: &str,
    prompts: &[Figure],
    rows: &[Row],
    images: &[(String, Vec<Figure>)],
) -> String {
    let mut body = String::new();
    let mut of_prompts = table(rows);
    of_prompts.extend(prompts.iter().map(figure));
    if !of_prompts.is_empty() {
        of_prompts.push_str(&note(
            "An image of a prompt is grey where nothing changes. Strength is the root of the mean square of what is added, \
             relative to that of the activation it joins.",
        ));
    }
    body.push_str(&section("Prompts", &of_prompts));
    for (heading, figures) in images {
        let figures: String = figures.iter().map(figure).collect();
        body.push_str(&section(heading, &figures));
    }
    body.push_str(&note(
        "Heat maps run from the least value (violet) to the largest (yellow) of each picture. Attention: from the class \
         token to the patches, or the mean of all queries, averaged over heads. Grad-CAM: Selvaraju et al., 2017.",
    ));
    page(title, STYLES, &body)
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = String::from(
        "<table>\n<tr><th>boundary</th><th>prompt</th><th>activation</th><th>strength</th></tr>\n",
    );
    for Row { place, strength } in rows {
        let Strength {
            prompt, activation, ..
        } = strength;
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td>{prompt:.4}</td><td>{activation:.4}</td><td>{:.2} %</td></tr>",
            escape(place),
            100.0 * prompt / activation
        );
    }
    table + "</table>\n"
}

fn figure(figure: &Figure) -> String {
    let (width, height) = figure.size;
    format!(
        "<figure>\n<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\
         <image width=\"{width}\" height=\"{height}\" href=\"data:image/png;base64,{}\"/></svg>\n\
         <figcaption>{}</figcaption>\n</figure>\n",
        base64(&figure.png),
        escape(&figure.caption)
    )
}

/// Bytes as base64 (RFC 4648, Sec. 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            // A missing byte leaves no more than padding.
            match place <= three.len() {
                true => text.push(LETTERS[(bits >> (18 - 6 * place) & 63) as usize] as char),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::document::check;

    #[test]
    fn base64_is_that_of_the_standard() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[255, 254, 253]), "//79");
    }

    #[test]
    fn the_page_loads_nothing() {
        let figure = || Figure {
            caption: "a < b".to_owned(),
            png: vec![1, 2, 3],
            size: (2, 2),
        };
        let strength = Strength {
            index: 1,
            prompt: 0.5,
            activation: 2.0,
            positions: None,
        };
        let place = "boundary 1 (input of blocks.0)".to_owned();
        let rows = [Row { place, strength }];
        let page = html(
            "a run",
            &[figure()],
            &rows,
            &[("an image".to_owned(), vec![figure()])],
        );
        check(&page);
        assert!(page.contains("25.00 %"), "{page}");
    }
}
