//! Checksums of files, as hubs and reference libraries state them.

use std::fmt::{self, Display, Formatter};
use std::io::Read;
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// An expected checksum, in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256: tfds, and a hub's large files.
    Sha256(String),
    /// The SHA-1 of git's blob with this content: a hub's small files.
    GitSha1(String),
    /// MD5: torchvision.
    Md5(String),
}

enum Hasher {
    Ring(Context),
    Md5(md5::Context),
}

impl Display for Digest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::GitSha1(hex) => write!(f, "git sha1 {hex}"),
            Self::Md5(hex) => write!(f, "md5 {hex}"),
        }
    }
}

impl Digest {
    /// The checksum that an etag of a hub is, told by its length: SHA-256 or that of a git blob.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match etag.len() {
            64 if hex => Some(Self::Sha256(etag.to_ascii_lowercase())),
            40 if hex => Some(Self::GitSha1(etag.to_ascii_lowercase())),
            _ => None,
        }
    }

    /// Returns the checksum of a file, of the same kind as this one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn of_file(&self, path: &Path) -> std::io::Result<Self> {
        let mut file = fs_err::File::open(path)?;
        let mut hasher = match self {
            Self::Sha256(_) => Hasher::Ring(Context::new(&SHA256)),
            Self::GitSha1(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {}\0", file.metadata()?.len()).as_bytes());
                Hasher::Ring(context)
            }
            Self::Md5(_) => Hasher::Md5(md5::Context::new()),
        };
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => match &mut hasher {
                    Hasher::Ring(context) => context.update(&buffer[..n]),
                    Hasher::Md5(context) => context.consume(&buffer[..n]),
                },
            }
        }
        let hex = match hasher {
            Hasher::Ring(context) => hex(context.finish().as_ref()),
            Hasher::Md5(context) => hex(&context.finalize().0),
        };
        Ok(match self {
            Self::Sha256(_) => Self::Sha256(hex),
            Self::GitSha1(_) => Self::GitSha1(hex),
            Self::Md5(_) => Self::Md5(hex),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | sha256sum`, `| git hash-object --stdin`, `| md5sum`.
    #[test]
    fn checksums_are_those_of_the_usual_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hello").unwrap();
        for digest in [
            Digest::Sha256(
                "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".into(),
            ),
            Digest::GitSha1("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".into()),
            Digest::Md5("5d41402abc4b2a76b9719d911017c592".into()),
        ] {
            assert_eq!(digest.of_file(&path).unwrap(), digest);
        }
    }

    #[test]
    fn etags_are_told_by_their_length() {
        let of = |etag: &str| Digest::of_etag(etag);
        assert!(matches!(of(&"a".repeat(64)), Some(Digest::Sha256(_))));
        assert!(matches!(of(&"A1".repeat(20)), Some(Digest::GitSha1(_))));
        assert_eq!(of(&format!("{}-5", "a".repeat(38))), None);
    }
}
