//! The few operations on URLs that redirects and paths of a hub need.

/// The scheme, host and port of a URL, as they decide whether a token may be sent.
pub fn origin(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']);
    let end = end.map_or(url.len(), |at| start + at);
    // What stands before an `@` is a password and not a part of the host.
    let host = url[start..end].rsplit('@').next().unwrap_or_default();
    format!("{}{host}", &url[..start]).to_ascii_lowercase()
}

/// The address that the `Location` of an answer from `base` names.
pub fn join(base: &str, location: &str) -> String {
    let scheme = base.find("://").map_or(0, |at| at + 3);
    let path = base[scheme..].find('/').map(|at| scheme + at);
    let root = &base[..path.unwrap_or(base.len())];
    let without_query = &base[..base.find(['?', '#']).unwrap_or(base.len())];
    match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{}{location}", &base[..scheme - 2]),
        _ if location.starts_with('/') => format!("{root}{location}"),
        _ if location.starts_with('?') => format!("{without_query}{location}"),
        _ => {
            let folder = without_query.rfind('/').filter(|at| *at >= scheme);
            let folder = folder.map_or(without_query, |at| &without_query[..at]);
            format!("{folder}/{location}")
        }
    }
}

/// A path with every character escaped that has a meaning in a URL; slashes stay.
pub fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.co/a/b"), "https://hub.co");
        assert_eq!(origin("http://127.0.0.1:80?x"), "http://127.0.0.1:80");
        assert_eq!(origin("https://hub.co@evil.org/a"), "https://evil.org");
        assert_ne!(origin("https://hub.co/"), origin("http://hub.co/"));
        assert_ne!(origin("http://hub.co:1/"), origin("http://hub.co:2/"));
    }

    #[test]
    fn locations_are_relative_or_absolute() {
        let base = "http://hub.co:8/a/b?c=d";
        for (location, expected) in [
            ("https://cdn.co/x", "https://cdn.co/x"),
            ("//cdn.co/x", "http://cdn.co/x"),
            ("/x?y", "http://hub.co:8/x?y"),
            ("x/y", "http://hub.co:8/a/x/y"),
            ("?e", "http://hub.co:8/a/b?e"),
        ] {
            assert_eq!(join(base, location), expected);
        }
        assert_eq!(join("http://hub.co", "x"), "http://hub.co/x");
    }

    #[test]
    fn paths_are_escaped_but_for_slashes() {
        assert_eq!(escape("a b/ü#?.bin"), "a%20b/%C3%BC%23%3F.bin");
    }
}
