//! Tar layers as tools write them, and as nobody honest does.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tar::{Builder, EntryType, Header};

use super::*;

const WASM: &[u8] = b"\0asm\x0d\0\x01\0";

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn add(tar: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = header(EntryType::Regular, bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).unwrap();
}

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, bytes) in files {
        add(&mut tar, name, bytes);
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn look(layer: &[u8], path: &str) -> Result<Found, UnpackError> {
    unpack(layer, path, &Bounds::of_file(1 << 20))
}

#[test]
fn every_compression() {
    let tar = layer(&[("etc/passwd", b"x"), ("app/a.wasm", WASM)]);
    let (front, back) = tar.split_at(700);
    // Frames and members one after another, as parallel compressors write them; a frame readers pass over.
    let members = [gzip(front), gzip(back)].concat();
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let frames = [&skipped[..], &zstd(front), &skipped, &zstd(back), &skipped].concat();
    for (how, bytes) in [
        ("plain", tar.clone()),
        ("gzip", gzip(&tar)),
        ("gzip members", members),
        ("zstd", zstd(&tar)),
        ("zstd frames", frames),
    ] {
        let found = look(&bytes, "app/a.wasm");
        assert_eq!(found.expect(how), Found::File(WASM.to_vec()), "{how}");
        assert_eq!(look(&bytes, "a.wasm").expect(how), Found::Absent, "{how}");
    }
}

#[test]
fn names_are_long_odd_and_repeated() {
    let long = format!("{}/a.wasm", "d".repeat(300));
    assert_eq!(
        look(&layer(&[(&long, WASM)]), &long).unwrap(),
        Found::File(WASM.to_vec())
    );
    let mut tar = Builder::new(Vec::new());
    let pairs = [("mtime", b"1.5".as_slice()), ("path", long.as_bytes())];
    tar.append_pax_extensions(pairs).unwrap();
    add(&mut tar, "short", WASM);
    add(&mut tar, "./b.wasm", b"old");
    add(&mut tar, "b.wasm", b"new");
    let tar = tar.into_inner().unwrap();
    assert_eq!(look(&tar, &long).unwrap(), Found::File(WASM.to_vec()));
    assert_eq!(look(&tar, "short").unwrap(), Found::Absent);
    assert_eq!(
        look(&tar, "b.wasm").unwrap(),
        Found::File(b"new".to_vec()),
        "the last of a name counts"
    );
}

#[test]
fn a_layer_removes_what_is_below() {
    for (mark, path, want) in [
        ("a/.wh.x.wasm", "a/x.wasm", Found::Removed),
        (".wh.a", "a/x.wasm", Found::Removed),
        ("a/.wh..wh..opq", "a/x.wasm", Found::Removed),
        (".wh..wh..opq", "a/x.wasm", Found::Removed),
        ("b/.wh..wh..opq", "a/x.wasm", Found::Absent),
        (".wh.x.wasm", "a/x.wasm", Found::Absent),
        ("a/.wh.x", "a/x.wasm", Found::Absent),
        ("a/.wh.x", "a/xy/x.wasm", Found::Absent),
    ] {
        assert_eq!(look(&layer(&[(mark, b"")]), path).unwrap(), want, "{mark}");
    }
    // Marks concern the layers below, not the one they are in.
    let both = layer(&[("a/.wh..wh..opq", b""), ("a/x.wasm", WASM)]);
    assert_eq!(look(&both, "a/x.wasm").unwrap(), Found::File(WASM.to_vec()));
}

/// Zeros without end.
fn bomb(name: &str, size: u64) -> impl Read {
    let mut header = header(EntryType::Regular, size);
    header.set_path(name).unwrap();
    header.set_cksum();
    io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(0).take(size))
}

#[test]
fn bombs_are_bounded() {
    let bounds = Bounds {
        entries: 10,
        unpacked: 4 << 20,
        file: 1 << 20,
    };
    // A file that claims to be large, one beside it that is, and both where a little gzip unfolds to much.
    let claimed = unpack(bomb("a.wasm", 1 << 40), "a.wasm", &bounds).unwrap_err();
    assert!(
        matches!(claimed, UnpackError::File { size, limit } if size == 1 << 40 && limit == 1 << 20),
        "{claimed}"
    );
    let beside = unpack(bomb("zeros", 1 << 40), "a.wasm", &bounds).unwrap_err();
    assert!(
        matches!(beside, UnpackError::Unpacked(n) if n == 4 << 20),
        "{beside}"
    );
    let mut small = Vec::new();
    bomb("zeros", 64 << 20).read_to_end(&mut small).unwrap();
    for packed in [gzip(&small), zstd(&small)] {
        assert!(packed.len() < 1 << 20, "{}", packed.len());
        let e = unpack(packed.as_slice(), "a.wasm", &bounds).unwrap_err();
        assert!(matches!(e, UnpackError::Unpacked(_)), "{e}");
    }
    let many: Vec<(String, &[u8])> = (0..11).map(|n| (n.to_string(), b"".as_slice())).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(n, b)| (n.as_str(), *b)).collect();
    let e = unpack(layer(&many).as_slice(), "a.wasm", &bounds).unwrap_err();
    assert!(matches!(e, UnpackError::Entries(10)), "{e}");
    // A name that takes megabytes.
    for kind in [EntryType::GNULongName, EntryType::XHeader] {
        let mut name = header(kind, 1 << 20);
        name.set_path("x").unwrap();
        name.set_cksum();
        let name = io::Cursor::new(name.as_bytes().to_vec()).chain(io::repeat(b'a').take(1 << 20));
        let e = unpack(name, "a.wasm", &bounds).unwrap_err();
        assert!(matches!(e, UnpackError::Broken(_)), "{e}");
    }
}

#[test]
fn what_is_no_file_or_no_tar_is_refused() {
    let mut tar = Builder::new(Vec::new());
    let mut link = header(EntryType::Symlink, 0);
    tar.append_link(&mut link, "a.wasm", "/etc/passwd").unwrap();
    let link = tar.into_inner().unwrap();
    assert!(matches!(look(&link, "a.wasm"), Err(UnpackError::NoFile)));
    let mut tar = Builder::new(Vec::new());
    tar.append_pax_extensions([("size", b"99".as_slice())])
        .unwrap();
    add(&mut tar, "a.wasm", WASM);
    let sized = tar.into_inner().unwrap();
    assert!(matches!(
        look(&sized, "a.wasm"),
        Err(UnpackError::Broken(_))
    ));
    let whole = layer(&[("a.wasm", WASM)]);
    for bytes in [
        b"<html>no such layer</html>".repeat(40),
        whole[..515].to_vec(),
        gzip(&whole)[..40].to_vec(),
        zstd(&whole)[..20].to_vec(),
        [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0xff; 64]].concat(),
    ] {
        assert!(
            matches!(look(&bytes, "a.wasm"), Err(UnpackError::Broken(_))),
            "{:?}",
            &bytes[..8]
        );
    }
    assert_eq!(look(b"", "a.wasm").unwrap(), Found::Absent);
}
