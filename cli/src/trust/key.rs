//! Key files: making, reading, and the password of encrypted ones.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coracle_trust::{KeyError, NamedKey, PrivateKey, PublicKey};

use super::args::{GenerateArgs, KeyCommand};
use crate::error::{self, CliError, Result};
use crate::print;

/// Where passwords are looked for, first to last.
const PASSWORDS: [&str; 2] = ["CORACLE_KEY_PASSWORD", "COSIGN_PASSWORD"];
/// Largest key file read; real ones have less than 1 kB.
const FILE_BYTES_MAX: u64 = 64 << 10;

fn password() -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    PASSWORDS
        .iter()
        .find_map(std::env::var_os)
        .map(OsStringExt::into_vec)
}

fn failed(path: &Path, e: &KeyError) -> CliError {
    let fix = match e {
        KeyError::Locked | KeyError::WrongPassword => {
            "put the password into $CORACLE_KEY_PASSWORD or $COSIGN_PASSWORD; it may be empty"
        }
        _ => "make one with `coracle key generate`, or give a PEM file of cosign or openssl",
    };
    CliError::new("E_KEY", format!("{} {e}", path.display())).fix(fix)
}

fn read(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(|e| error::file(path, &e))?;
    if size.len() > FILE_BYTES_MAX {
        return Err(failed(path, &KeyError::NotPem));
    }
    std::fs::read_to_string(path).map_err(|e| error::file(path, &e))
}

/// Reads a private key.
pub fn private(path: &Path) -> Result<PrivateKey> {
    let password = password();
    PrivateKey::parse(&read(path)?, password.as_deref()).map_err(|e| failed(path, &e))
}

/// Reads public keys, named by their files.
pub fn public(paths: &[PathBuf]) -> Result<Vec<NamedKey>> {
    paths
        .iter()
        .map(|path| {
            let key = PublicKey::parse(&read(path)?).map_err(|e| failed(path, &e))?;
            let name = path.display().to_string();
            Ok(NamedKey { name, key })
        })
        .collect()
}

/// `coracle key`.
pub fn key(command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Generate(args) => generate(&args),
    }
}

fn generate(args: &GenerateArgs) -> Result<()> {
    let mut fill = |bytes: &mut [u8]| rand::fill(bytes);
    let with = |extension: &str| {
        let mut path = args.output.clone().into_os_string();
        path.push(extension);
        PathBuf::from(path)
    };
    let (private, public) = (with(".key"), with(".pub"));
    let made = PrivateKey::generate(args.kind.into(), &mut fill);
    let made = made.map_err(|e| failed(&private, &e))?;
    let text = match password() {
        Some(password) => made.sealed_pem(&password, &mut fill),
        None => made.pem(),
    }
    .map_err(|e| failed(&private, &e))?;
    write(&private, text.expose(), 0o600)?;
    if let Err(e) = write(&public, &made.public().pem(), 0o644) {
        // Half a pair would only stand in the way of the next try.
        let _ = std::fs::remove_file(&private);
        return Err(e);
    }
    print::out(&format!(
        "{} {}\n{} {}\n",
        private.display(),
        made.public().algorithm(),
        public.display(),
        made.public().id(),
    ));
    Ok(())
}

/// Writes a new file; an existing one is never replaced, since a lost key cannot be made again.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = match file {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(CliError::new(
                "E_FILE_EXISTS",
                format!("{} is there already", path.display()),
            )
            .fix("name another prefix with --output, or move the file away"));
        }
        file => file.map_err(|e| error::file(path, &e))?,
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| error::file(path, &e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::trust::args::KeyType;

    #[test]
    fn a_pair_is_written_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let args = GenerateArgs {
            kind: KeyType::Ed25519,
            output: dir.path().join("release.v1"),
        };
        generate(&args).unwrap();
        let key = dir.path().join("release.v1.key");
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = std::fs::read_to_string(&key).unwrap();
        assert_eq!(generate(&args).unwrap_err().code, "E_FILE_EXISTS");
        assert_eq!(std::fs::read_to_string(&key).unwrap(), before);
        let public = public(&[dir.path().join("release.v1.pub")]).unwrap();
        assert_eq!(&public[0].key, private(&key).unwrap().public());
        // A public key where a private one is wanted, and the reverse.
        assert_eq!(
            private(&dir.path().join("release.v1.pub"))
                .unwrap_err()
                .code,
            "E_KEY"
        );
        assert_eq!(super::public(&[key]).unwrap_err().code, "E_KEY");
    }
}
