use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::testing::{Forgery, NO_LIMIT, TestStore, files_below, noise};
use crate::{import, inspect};

/// A package of its own, which shares all but one file with the others.
fn numbered(number: usize) -> Vec<u8> {
    let content = [format!("{number}").into_bytes(), noise(300)].concat();
    Forgery::default().with("models/script.pt", &content).tar()
}

#[test]
fn one_process_at_a_time() {
    let TestStore { store, dir } = TestStore::new();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::InUse { .. })
    ));
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn opened_after_a_crash() {
    let TestStore { store, dir } = TestStore::new();
    let live = *import(&*numbered(1), &store, NO_LIMIT).unwrap().digest();
    let whole = files_below(dir.path());

    // Killed while it received, between two renames, and while it was made.
    fs::write(store.incoming().join(".tmpAbCdEf"), noise(5000)).unwrap();
    fs::create_dir(store.incoming().join("folder")).unwrap();
    let orphan = store.path(&Digest::of(b"half"));
    fs::write(&orphan, b"half").unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(store.incoming()).unwrap().count(), 0);
    store.package(&live).unwrap();
    import(&*numbered(2), &store, NO_LIMIT).unwrap();
    store.collect().keep_only(&[live]).unwrap();
    assert_eq!(files_below(dir.path()), whole);

    drop(store);
    fs::remove_dir_all(dir.path().join("incoming")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    import(&*numbered(2), &store, NO_LIMIT).unwrap();
}

#[test]
fn what_a_collection_keeps() {
    let test = TestStore::new();
    let store = &test.store;
    let one = test.import(&numbered(1)).unwrap();
    let two = test.import(&numbered(2)).unwrap();
    let all = test.blobs();

    // In memory.
    assert_eq!(
        store.collect().keep_only(&[]).unwrap(),
        Collected::default()
    );
    let clone = two.clone();
    drop(two);
    assert_eq!(
        store.collect().keep_only(&[]).unwrap(),
        Collected::default()
    );
    // Live.
    let digest = *clone.digest();
    drop(clone);
    assert_eq!(
        store.collect().keep_only(&[digest]).unwrap(),
        Collected::default()
    );
    assert_eq!(test.blobs(), all);
    // Neither: its own model and its manifest, while what it shares stays.
    let collected = store.collect().keep_only(&[]).unwrap();
    assert_eq!(collected.blobs, 2);
    assert!(collected.bytes > 300);
    assert_eq!(test.blobs(), all - 2);
    for blob in one.files() {
        store.check(&blob.digest).unwrap();
    }
    assert!(matches!(
        store.package(&digest),
        Err(PackageError::Store(StoreError::Missing(missing))) if missing == digest
    ));

    // A live package that cannot be read: better to keep too much.
    let before = test.files();
    drop(one);
    store.collect().keep_only(&[digest]).unwrap_err();
    assert_eq!(test.files(), before);
    // Somebody else's file.
    let foreign = store.blobs().join("README");
    fs::write(&foreign, "mine").unwrap();
    store.collect().keep_only(&[]).unwrap();
    assert_eq!(test.blobs(), 1);
    assert!(foreign.exists());
}

/// A node that deploys on several threads and collects all the while: whatever is live is whole.
#[test]
fn a_collection_during_imports() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 12;
    let test = TestStore::new();
    let live = Mutex::new(BTreeSet::<Digest>::new());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) {
                let collection = test.store.collect();
                let now: Vec<Digest> = live.lock().unwrap().iter().copied().collect();
                collection.keep_only(&now).unwrap();
                rounds += 1;
                thread::yield_now();
            }
            rounds
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let (test, live) = (&test, &live);
                scope.spawn(move || {
                    let mut before: Option<Digest> = None;
                    for round in 0..ROUNDS {
                        let package = test.import(&numbered(worker * ROUNDS + round)).unwrap();
                        let digest = *package.digest();
                        let mut live = live.lock().unwrap();
                        live.insert(digest);
                        if let Some(before) = before.replace(digest) {
                            live.remove(&before);
                        }
                        drop(live);
                        drop(package);
                        // What was committed stays, although nothing in memory holds it.
                        let package = test.store.package(&digest).unwrap();
                        for blob in package.files() {
                            test.store.check(&blob.digest).unwrap();
                        }
                    }
                })
            })
            .collect();
        // The collector has to stop also when a worker has failed.
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Release);
        assert!(collector.join().unwrap() > 0);
        assert!(results.iter().all(Result::is_ok));
    });
    let live: Vec<Digest> = live.into_inner().unwrap().into_iter().collect();
    assert_eq!(live.len(), THREADS);
    test.store.collect().keep_only(&live).unwrap();
    // Four files and the configuration are shared; a model and a manifest each are not.
    assert_eq!(test.blobs(), 5 + 2 * THREADS);
    assert!(test.store.pins.all().is_empty());
}

#[test]
fn a_damaged_blob_is_noticed_and_healed() {
    let test = TestStore::new();
    let tar = numbered(1);
    let package = test.import(&tar).unwrap();
    let digest = *package.digest();
    let blobs: Vec<Digest> = package.blobs().map(|(digest, _)| digest).collect();
    for blob in blobs {
        let path = test.store.path(&blob);
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(test.store.read(&blob), Err(StoreError::Damaged(found)) if found == blob));
        assert!(
            matches!(test.store.check(&blob), Err(StoreError::Damaged(found)) if found == blob)
        );
        fs::write(&path, &bytes[1..]).unwrap();
        assert!(test.store.package(&digest).is_err());
        fs::remove_file(&path).unwrap();
        assert!(test.store.package(&digest).is_err());
        assert!(
            matches!(test.store.check(&blob), Err(StoreError::Missing(found)) if found == blob)
        );
        fs::write(&path, &bytes).unwrap();
        test.import(&tar).unwrap();
        test.store.check(&blob).unwrap();
    }
    test.store.package(&digest).unwrap();
}

#[test]
fn a_package_that_cannot_be_published_leaves_nothing() {
    let test = TestStore::new();
    let tar = numbered(1);
    let elsewhere = TestStore::new();
    let package = elsewhere.import(&tar).unwrap();
    let (files, documents): (Vec<_>, Vec<_>) = (
        package.files().map(|blob| blob.digest).collect(),
        package.blobs().map(|(digest, _)| digest).collect(),
    );
    assert_eq!(documents.len(), files.len() + 2);
    for digest in documents {
        // A file cannot be renamed over a folder.
        let obstacle = test.store.path(&digest);
        fs::create_dir(&obstacle).unwrap();
        let error = test.refuse("what cannot be published", &tar);
        assert!(matches!(error, PackageError::Store(StoreError::Io { .. })));
        assert!(!error.is_out_of_space());
        fs::remove_dir(&obstacle).unwrap();
        assert_eq!(test.blobs(), 0);
        assert!(test.store.pins.all().is_empty());
    }
    test.import(&tar).unwrap();
}

#[test]
fn a_layout_on_disk() {
    let test = TestStore::new();
    let package = test.import(&numbered(1)).unwrap();
    let folder = test.dir.path().join("laid-out");
    test.store.lay_out(&package, &folder).unwrap();
    test.store.lay_out(&package, &folder).unwrap();
    assert_eq!(files_below(&folder).len(), package.files().count());
    for blob in package.files() {
        assert_eq!(
            Digest::of(&fs::read(folder.join(blob.title.as_str())).unwrap()),
            blob.digest
        );
    }
    let copy_of = folder.join("copy");
    copy(&folder.join("models/digits.onnx"), &copy_of).unwrap();
    assert_eq!(
        fs::read(copy_of).unwrap(),
        fs::read(folder.join("models/digits.onnx")).unwrap()
    );
}

#[test]
fn looked_at_without_a_store() {
    let test = TestStore::new();
    let path = test.dir.path().join("digits.tar");
    let tar = numbered(1);
    fs::write(&path, &tar).unwrap();
    let seen = inspect(&path).unwrap();
    let imported = test.import(&tar).unwrap();
    assert_eq!(seen.digest(), imported.digest());
    assert!(seen.files().eq(imported.files()));
    for cut in (0..tar.len()).step_by(997) {
        fs::write(&path, &tar[..cut]).unwrap();
        assert!(
            matches!(inspect(&path), Err(PackageError::Truncated)),
            "cut at {cut}"
        );
    }
    let bad = Forgery::default()
        .with("models/digits.onnx", &crate::testing::onnx_model(&["../x"]))
        .tar();
    fs::write(&path, bad).unwrap();
    assert!(inspect(&path).is_err());
    fs::write(
        &path,
        Forgery::default().with("predictor.wasm", b"\0asm").tar(),
    )
    .unwrap();
    assert!(matches!(inspect(&path), Err(PackageError::World { .. })));
    assert!(matches!(
        inspect(test.dir.path()),
        Err(PackageError::Read(_))
    ));
    assert!(matches!(
        inspect(&path.join("none")),
        Err(PackageError::Read(_))
    ));
}
