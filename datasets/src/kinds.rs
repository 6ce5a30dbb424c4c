//! The kinds of images that are read.

/// Their names, for messages.
pub(crate) const KINDS: &str = "png, jpeg, webp, bmp, gif or ppm image";

/// The endings of their files' names, in lower case.
pub(crate) const EXTENSIONS: [&str; 7] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "ppm"];
