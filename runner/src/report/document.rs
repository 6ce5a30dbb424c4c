//! An HTML file that needs nothing else: it has no scripts and loads nothing.

const STYLE: &str = include_str!("style.css");

/// A page. The body is HTML; `styles` come after those that all pages share.
pub fn page(title: &str, styles: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{styles}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// A section with a heading. The body is HTML; without one there is no section.
pub fn section(heading: &str, body: &str) -> String {
    match body.is_empty() {
        true => String::new(),
        false => format!(
            "<section>\n<h2>{}</h2>\n{body}</section>\n",
            escape(heading)
        ),
    }
}

/// A part that is folded until it is opened. The body is HTML.
pub fn details(summary: &str, body: &str) -> String {
    format!(
        "<details>\n<summary>{}</summary>\n{body}</details>\n",
        escape(summary)
    )
}

/// A remark, in small print.
pub fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// YAML, shown as it is.
pub fn yaml(text: &str) -> String {
    format!("<pre>{}</pre>\n", escape(text))
}

/// Escapes text for HTML, also inside quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Checks that a page is complete, that its tags are balanced, and that it loads nothing.
#[cfg(test)]
pub fn check(page: &str) {
    for bad in [
        "<script", "http:", "https:", "NaN", "inf\"", "<link", "src=", "url(", "@import",
    ] {
        assert!(!page.contains(bad), "{bad}");
    }
    let mut open = Vec::new();
    let (start, end) = (page.find("<body>").unwrap(), page.find("</html>").unwrap());
    for tag in page[start..end].split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
