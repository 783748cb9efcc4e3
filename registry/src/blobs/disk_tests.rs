//! The disk store against a real directory.

use super::*;

#[test]
fn a_file_where_a_directory_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    fs::write(&file, b"x").unwrap();
    for path in [file.clone(), file.join("registry")] {
        let error = open(&path).err().unwrap().to_string();
        assert!(error.starts_with("REGISTRY_DIR_NOT_A_DIRECTORY"), "{error}");
    }
    fs::create_dir(dir.path().join("r")).unwrap();
    fs::write(dir.path().join("r/blobs"), b"x").unwrap();
    assert!(matches!(
        open(&dir.path().join("r")),
        Err(OpenError::NotADirectory { .. })
    ));
}

#[tokio::test]
async fn a_blob_appears_whole_and_only_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let id = UploadId::from_bits(1);
    store.begin(&id, Bytes::from_static(b"note")).await.unwrap();
    store
        .append(&id, 0, Bytes::from_static(b"hello"))
        .await
        .unwrap();
    store
        .append(&id, 3, Bytes::from_static(b"p!x"))
        .await
        .unwrap();
    let staged = store.staged().await.unwrap();
    assert_eq!((staged.len(), staged[0].size), (1, 6));
    assert_eq!(staged[0].note, Bytes::from_static(b"note"));
    assert!(store.list(None, 9).await.unwrap().is_empty());
    let digest = Algorithm::Sha512.digest(b"help!");
    assert!(matches!(
        store.append(&id, 9, Bytes::new()).await,
        Err(BlobError::Short { have: 6, want: 9 })
    ));
    store.append(&id, 5, Bytes::new()).await.unwrap();
    store.finish(&id, 5, &digest).await.unwrap();
    assert!(store.staged().await.unwrap().is_empty());
    let hex = digest.hex();
    let path = format!("blobs/sha512/{}/{hex}", &hex[..2]);
    assert_eq!(fs::read(dir.path().join(path)).unwrap(), b"help!");
    assert!(matches!(
        store.append(&id, 0, Bytes::from_static(b"x")).await,
        Err(BlobError::UploadGone)
    ));
    assert!(store.remove(&digest).await.unwrap());
    assert!(!store.remove(&digest).await.unwrap());
}

#[tokio::test]
async fn listing_pages_over_shards_and_algorithms() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut want = Vec::new();
    for n in 0..40_u8 {
        let id = UploadId::from_bits(u128::from(n));
        let algorithm = Algorithm::ALL[usize::from(n % 2)];
        let digest = algorithm.digest(&[n]);
        store.begin(&id, Bytes::new()).await.unwrap();
        store
            .append(&id, 0, Bytes::copy_from_slice(&[n]))
            .await
            .unwrap();
        store.finish(&id, 1, &digest).await.unwrap();
        want.push(digest);
    }
    want.sort();
    let mut got: Vec<Digest> = Vec::new();
    loop {
        let page = store.list(got.last(), 7).await.unwrap();
        let end = page.len() < 7;
        got.extend(page.into_iter().map(|stored| stored.digest));
        if end {
            break;
        }
    }
    assert_eq!(got, want);
}

#[tokio::test]
async fn bytes_that_come_whole_are_stored_and_heal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let digest = Algorithm::Sha256.digest(b"whole");
    let hex = digest.hex();
    let path = dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    for n in 0..2 {
        let id = UploadId::from_bits(n);
        let bytes = Bytes::from_static(b"whole");
        store.put(&id, &digest, bytes).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
        fs::write(&path, b"wh").unwrap();
    }
}

#[tokio::test]
async fn bytes_that_cannot_be_stored_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let digest = Algorithm::Sha256.digest(b"whole");
    // A directory stands where the blob should go: renaming onto it fails.
    let hex = digest.hex();
    let path = dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    fs::create_dir_all(path.join("in the way")).unwrap();
    let bytes = Bytes::from_static(b"whole");
    let put = store.put(&UploadId::from_bits(1), &digest, bytes).await;
    assert!(matches!(put, Err(BlobError::Io { .. })), "{put:?}");
    assert_eq!(fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_crash_left_of_a_put_is_removed_and_of_an_upload_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let id = UploadId::from_bits(7);
    store.begin(&id, Bytes::from_static(b"note")).await.unwrap();
    let left = dir.path().join(format!("uploads/{}.put", id.as_str()));
    fs::write(&left, b"half").unwrap();
    assert_eq!(store.staged().await.unwrap().len(), 1);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(!left.exists());
    assert_eq!(store.staged().await.unwrap().len(), 1);
}
