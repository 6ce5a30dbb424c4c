//! The kinds of images that are read.

/// Their names, for messages.
pub(crate) const KINDS: &str = "png, jpeg, webp, bmp, gif, pnm or tiff image";

/// The endings of their files' names, in lower case: those that torchvision's `ImageFolder` reads,
/// and four more.
pub(crate) const EXTENSIONS: [&str; 13] = [
    "png", "jpg", "jpeg", "webp", "bmp", "gif", "ppm", "pgm", "pbm", "pnm", "tif", "tiff", "jfif",
];
