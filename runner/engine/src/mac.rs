//! HMAC-SHA256 (RFC 2104) and the node key that authenticates compiled code.
//!
//! A forged `.cwasm` is arbitrary native code, so a file is mapped only if this node's own compiler made it. The key
//! lives beside the cache, readable by this user only; whoever can read it can write the cache anyway.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 64;

/// A running HMAC.
pub(crate) struct Hmac {
    inner: Sha256,
    outer: Sha256,
}

impl Hmac {
    pub(crate) fn new(key: &[u8]) -> Self {
        let mut block = [0u8; BLOCK_BYTES];
        if key.len() > BLOCK_BYTES {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let mut inner = Sha256::new();
        let mut outer = Sha256::new();
        inner.update(block.map(|b| b ^ 0x36));
        outer.update(block.map(|b| b ^ 0x5c));
        Hmac { inner, outer }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.outer.update(self.inner.finalize());
        self.outer.finalize().into()
    }
}

/// Compares without leaking where the first difference is.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// The node's secret; never printed.
pub(crate) struct NodeKey([u8; 32]);

impl NodeKey {
    /// Reads `dir/key`, making it (0600, fsynced) on first use.
    pub(crate) fn open(dir: &Path) -> io::Result<NodeKey> {
        let path = dir.join("key");
        loop {
            match File::open(&path) {
                Ok(mut file) => {
                    if file.metadata()?.permissions().mode() & 0o077 != 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::PermissionDenied,
                            format!("{} is readable by others", path.display()),
                        ));
                    }
                    let mut key = [0u8; 32];
                    file.read_exact(&mut key)?;
                    return Ok(NodeKey(key));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let mut key = [0u8; 32];
                    File::open("/dev/urandom")?.read_exact(&mut key)?;
                    // tempfile makes files 0600; another process may win the race, then its key is read.
                    let mut temp = tempfile::NamedTempFile::new_in(dir)?;
                    temp.write_all(&key)?;
                    temp.as_file().sync_all()?;
                    match temp.persist_noclobber(&path) {
                        Ok(_) => File::open(dir)?.sync_all()?,
                        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {}
                        Err(e) => return Err(e.error),
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// MAC of a compiled file: covers its name, so that files cannot be swapped for one another.
    pub(crate) fn sign(&self, name: &str, mut content: impl Read) -> io::Result<[u8; 32]> {
        let mut mac = Hmac::new(&self.0);
        mac.update(b"coracle aot 1\0");
        mac.update(name.as_bytes());
        mac.update(b"\0");
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(mac.finish()),
                n => mac.update(&buffer[..n]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_rfc_4231() {
        let mut mac = Hmac::new(&[0x0b; 20]);
        mac.update(b"Hi There");
        assert_eq!(
            hex::encode(mac.finish()),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        let mut mac = Hmac::new(&[0xaa; 131]);
        mac.update(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(
            hex::encode(mac.finish()),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeKey::open(dir.path()).unwrap().0;
        assert_eq!(NodeKey::open(dir.path()).unwrap().0, first);
        let path = dir.path().join("key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(NodeKey::open(dir.path()).is_err());
    }
}
