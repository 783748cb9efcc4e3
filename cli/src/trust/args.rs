//! The command line of signing, verifying, attaching and looking into images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use coracle_trust::Algorithm;
use coracle_trust::referrer::Document;

use crate::args::{Output, Target};

/// What may be done with keys.
#[derive(Subcommand, Clone, Debug)]
pub enum KeyCommand {
    /// Make a key pair: PREFIX.key to sign with, PREFIX.pub to verify with.
    ///
    /// With a password in $CORACLE_KEY_PASSWORD or $COSIGN_PASSWORD (it may be empty) the private key is encrypted, in the
    /// form that `cosign sign --key` reads. Without one it is a plain PKCS#8 file that only its owner can read.
    Generate(GenerateArgs),
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyType {
    /// ECDSA on NIST P-256, cosign's own.
    P256,
    /// Ed25519.
    Ed25519,
}

impl From<KeyType> for Algorithm {
    fn from(kind: KeyType) -> Self {
        match kind {
            KeyType::P256 => Self::P256,
            KeyType::Ed25519 => Self::Ed25519,
        }
    }
}

/// `coracle key generate`.
#[derive(Args, Clone, Debug)]
pub struct GenerateArgs {
    /// Kind of key.
    #[arg(long = "type", value_name = "TYPE", default_value = "p256")]
    pub kind: KeyType,
    /// Where to write: PREFIX.key and PREFIX.pub.
    #[arg(short, long, value_name = "PREFIX", default_value = "coracle")]
    pub output: PathBuf,
}

/// `coracle sign`.
#[derive(Args, Clone, Debug)]
pub struct SignArgs {
    /// The image; what is signed is the digest it has now.
    pub image: String,
    /// Private key: of `coracle key generate`, cosign (password in $COSIGN_PASSWORD) or openssl.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Also sign in the form of cosign 1 and 2, under the tag sha256-DIGEST.sig.
    #[arg(long)]
    pub legacy: bool,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The image.
    pub image: String,
    /// Public key; one of several must have signed.
    #[arg(long, value_name = "FILE", required = true)]
    pub key: Vec<PathBuf>,
    /// Every key must have signed.
    #[arg(long)]
    pub all: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// Kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentType {
    /// An SBOM in SPDX JSON.
    Spdx,
    /// An SBOM in CycloneDX JSON.
    Cyclonedx,
    /// SLSA provenance: an in-toto statement, or with --key its predicate.
    Provenance,
    /// Any in-toto statement.
    InToto,
}

impl From<DocumentType> for Document {
    fn from(kind: DocumentType) -> Self {
        match kind {
            DocumentType::Spdx => Self::Spdx,
            DocumentType::Cyclonedx => Self::CycloneDx,
            DocumentType::Provenance => Self::Provenance,
            DocumentType::InToto => Self::InToto,
        }
    }
}

/// `coracle attach`.
#[derive(Args, Clone, Debug)]
pub struct AttachArgs {
    /// The image.
    pub image: String,
    /// The document: a JSON file.
    pub file: PathBuf,
    /// What it is.
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: DocumentType,
    /// Sign it: it is attached as a statement that `cosign verify-attestation --key` reads.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// The image.
    pub image: String,
    /// Public key that signatures are checked with.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}

/// `coracle diff`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The old image, or a .wasm file.
    pub old: String,
    /// The new image, or a .wasm file.
    pub new: String,
    /// Exit with 1 if the new one can do what the old one cannot.
    #[arg(long)]
    pub fail_on_gain: bool,
    /// Output form.
    #[arg(short, long)]
    pub output: Option<Output>,
    /// Cluster.
    #[command(flatten)]
    pub target: Target,
}
