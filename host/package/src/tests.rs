//! What an import takes, and every archive it refuses; `contents` has what archives are of.

mod contents;

use std::io::{self, Read};

use tar::EntryType;

use crate::testing::*;
use crate::*;

#[test]
fn a_whole_package() {
    let test = TestStore::new();
    let forgery = Forgery::default();
    let package = test.import(&forgery.tar()).unwrap();
    assert_eq!(package.deployment().name.as_str(), "digits");
    assert_eq!(
        package.predictor().unwrap().title.as_str(),
        "predictor.wasm"
    );
    assert_eq!(package.files().count(), forgery.layers.len());
    for (title, media_type, content) in &forgery.layers {
        let blob = package.file(title).unwrap();
        assert_eq!(blob.kind.media_type(), media_type);
        assert_eq!(blob.size, content.len() as u64);
        assert_eq!(&test.store.read(&blob.digest).unwrap(), content);
    }
    assert!(package.file("models/none.onnx").is_none());

    let again = test.store.package(package.digest()).unwrap();
    assert_eq!(again.deployment(), package.deployment());
    assert!(again.files().eq(package.files()));
    assert_eq!(again.size(), package.size());

    // Once more is once.
    let before = test.files();
    assert_eq!(
        test.import(&forgery.tar()).unwrap().digest(),
        package.digest()
    );
    assert_eq!(test.files(), before);
}

#[test]
fn archives_that_other_tools_make() {
    let test = TestStore::new();
    for edit in [
        (|entries| entries.reverse()) as fn(&mut Vec<Entry>),
        |entries| {
            for entry in entries.iter_mut() {
                entry.name.splice(0..0, *b"./");
            }
            entries.insert(0, Entry::new("./", EntryType::Directory, b"", ""));
            entries.insert(1, Entry::new("./blobs/", EntryType::Directory, b"", ""));
            entries.insert(
                2,
                Entry::new("./blobs/sha256/", EntryType::Directory, b"", ""),
            );
        },
        |entries| {
            let times = b"22 mtime=1700000000.5\n";
            entries.insert(0, Entry::new("PaxHeader", EntryType::XHeader, times, ""));
        },
    ] {
        test.import(
            &Forgery {
                edit_entries: edit,
                ..Forgery::default()
            }
            .tar(),
        )
        .unwrap();
    }
    // Padded to the tape's blocks, and given byte by byte.
    let mut padded = Forgery::default().tar();
    padded.resize(padded.len().next_multiple_of(10_240), 0);
    import(OneByte(&padded), &test.store, NO_LIMIT).unwrap();
}

#[test]
fn cut_anywhere() {
    let test = TestStore::new();
    let tar = Forgery::default().tar();
    let cuts = (0..tar.len())
        .step_by(997)
        .chain((0..tar.len()).step_by(512));
    for cut in cuts.chain([1, tar.len() - 1, tar.len() - 513]) {
        let error = test.refuse(&format!("a cut at {cut}"), &tar[..cut]);
        assert!(
            matches!(error, PackageError::Truncated),
            "cut at {cut}: {}",
            chain(&error)
        );
    }
}

#[test]
fn a_short_file_that_is_something_else() {
    let test = TestStore::new();
    for other in [&b"name: digits\n"[..], b"\x89PNG\r\n", b"\0asm", &[0; 100]] {
        let error = chain(&test.refuse("something else", other));
        assert!(error.contains("is not a tar archive"), "{error}");
    }
}

#[test]
fn a_bit_flipped_anywhere() {
    let tar = Forgery::default().tar();
    let test = TestStore::new();
    let digest = *TestStore::new().import(&tar).unwrap().digest();
    let (mut refused, mut taken) = (0, 0);
    for at in (0..tar.len()).step_by(61) {
        let mut flipped = tar.clone();
        flipped[at] ^= 1 << (at % 8);
        let before = test.files();
        match test.import(&flipped) {
            // What fills a block means nothing; everything that means something is the same.
            Ok(package) => {
                assert_eq!(*package.digest(), digest, "flipped at {at}");
                assert_eq!(tar[at], 0, "flipped at {at}");
                drop(package);
                test.store.collect().keep_only(&[]).unwrap();
                taken += 1;
            }
            Err(_) => refused += 1,
        }
        assert_eq!(test.files(), before, "flipped at {at}");
    }
    assert!(refused > 4 * taken, "{refused} refused, {taken} taken");
}

#[test]
fn the_size_is_bounded() {
    let test = TestStore::new();
    let tar = Forgery::default().tar();
    let len = tar.len() as u64;
    for (package_max, fits) in [
        (len, true),
        (len - 1, false),
        (len / 2, false),
        (1, false),
        (0, false),
    ] {
        let test = TestStore::new();
        let before = test.files();
        let result = import(&*tar, &test.store, ImportLimits { package_max });
        assert_eq!(result.is_ok(), fits, "{package_max}");
        if let Err(error) = result {
            assert!(
                matches!(error, PackageError::TooLarge { .. }),
                "{}",
                chain(&error)
            );
            assert_eq!(test.files(), before);
        }
    }
    // An upload without an end.
    let mut endless = tar[..512].to_vec();
    let mut header = tar::Header::new_gnu();
    header
        .set_path("blobs/sha256/".to_owned() + &"0".repeat(64))
        .unwrap();
    header.set_size(1 << 60);
    header.set_cksum();
    endless.clear();
    endless.extend(header.as_bytes());
    for reader in [
        &mut (&*endless).chain(io::repeat(7)) as &mut dyn Read,
        &mut (&*tar).chain(io::repeat(0)),
    ] {
        let error = import(
            reader,
            &test.store,
            ImportLimits {
                package_max: 1 << 20,
            },
        )
        .unwrap_err();
        assert!(
            matches!(error, PackageError::TooLarge { .. }),
            "{}",
            chain(&error)
        );
        assert_eq!(test.blobs(), 0);
    }
}

#[test]
fn a_reader_that_fails() {
    let test = TestStore::new();
    let tar = Forgery::default().tar();
    for cut in [0, 100, 512, 5_000, tar.len() - 600, tar.len()] {
        let reader = (&tar[..cut]).chain(Failing);
        let before = test.files();
        let error = import(reader, &test.store, NO_LIMIT).unwrap_err();
        assert!(
            matches!(error, PackageError::Read(_)),
            "{cut}: {}",
            chain(&error)
        );
        assert_eq!(test.files(), before);
    }
}

#[test]
fn archives_with_tricks() {
    let test = TestStore::new();
    let check = |said: &str, edit: fn(&mut Vec<Entry>)| {
        let tar = Forgery {
            edit_entries: edit,
            ..Forgery::default()
        }
        .tar();
        let error = test.refuse(said, &tar);
        assert!(
            matches!(error, PackageError::Invalid { .. }),
            "{}",
            chain(&error)
        );
        assert!(error.to_string().contains(said), "{error}\nnot {said}");
    };
    check("is there twice", |entries| entries.push(entries[0].clone()));
    check("index.json: is there twice", |entries| {
        entries.push(Entry::file("./index.json", b"{}"))
    });
    check("oci-layout: is there twice", |entries| {
        entries.push(Entry::file("oci-layout", b"{}"))
    });
    check("../evil: has no place", |entries| {
        entries.push(Entry::file("../evil", b"x"))
    });
    check("/etc/evil: has no place", |entries| {
        entries.push(Entry::file("/etc/evil", b"x"))
    });
    check("has no place", |entries| {
        entries.push(Entry::file("blobs/sha256/../../evil", b"x"))
    });
    check("has no place", |entries| {
        entries.push(Entry::file("blobs/sha256//", b"x"))
    });
    check("has no place", |entries| {
        entries.push(Entry::file(
            &format!("blobs/sha256/{}", "A".repeat(64)),
            b"x",
        ));
    });
    check("has no place", |entries| {
        entries.push(Entry::file(
            &format!("blobs/sha512/{}", "a".repeat(64)),
            b"x",
        ));
    });
    check("has no place", |entries| {
        entries.push(Entry::file("", b"x"))
    });
    check("a\\nb: has no place", |entries| {
        entries.push(Entry::file("a\nb", b"x"))
    });
    check("has no place", |entries| {
        entries[0].name = b"\xff\xfe".to_vec()
    });
    check("has no place", |entries| {
        entries.push(Entry::new("../up", EntryType::Directory, b"", ""));
    });
    check("is a link", |entries| {
        entries.push(Entry::new("blobs", EntryType::Symlink, b"", "/etc"));
    });
    check("is a link", |entries| {
        entries.push(Entry::new(
            "index.json",
            EntryType::Link,
            b"",
            "/etc/passwd",
        ));
    });
    check("is a link", |entries| entries[0].kind = EntryType::Symlink);
    for (kind, edit) in [
        (
            "device",
            (|entries| entries[0].kind = EntryType::Char) as fn(&mut Vec<Entry>),
        ),
        ("pipe", |entries| entries[0].kind = EntryType::Fifo),
        ("odd", |entries| entries[0].kind = EntryType::new(b'~')),
    ] {
        test.refuse(
            kind,
            &Forgery {
                edit_entries: edit,
                ..Forgery::default()
            }
            .tar(),
        );
    }
    check("is a sparse file", |entries| {
        entries[0].kind = EntryType::GNUSparse
    });
    check("is a long name", |entries| {
        entries.insert(
            0,
            Entry::new("././@LongLink", EntryType::GNULongName, b"blobs/evil\0", ""),
        );
    });
    check("unreasonable length", |entries| {
        entries.insert(0, Entry::new("x", EntryType::XHeader, &[b'a'; 70_000], ""));
    });
    check("more than 4096 entries", |entries| {
        let folder = Entry::new("blobs", EntryType::Directory, b"", "");
        entries.splice(0..0, std::iter::repeat_n(folder, 4100));
    });
    check("it has at most 65536", |entries| {
        entries.retain(|entry| entry.name != b"index.json");
        entries.push(Entry::file("index.json", &[b' '; 70_000]));
    });
    check("oci-layout: is missing", |entries| {
        entries.retain(|entry| entry.name != b"oci-layout");
    });
    check("index.json: is missing", |entries| {
        entries.retain(|entry| entry.name != b"index.json");
    });
    check("oci-layout: has version", |entries| {
        entries.pop();
        entries.push(Entry::file(
            "oci-layout",
            b"{\"imageLayoutVersion\":\"2.0.0\"}",
        ));
    });
    check("is named by nothing in the package", |entries| {
        let name = format!("blobs/sha256/{}", Digest::of(b"stowaway").as_hex());
        entries.push(Entry::file(&name, b"stowaway"));
    });

    let mut tail = Forgery::default().tar();
    tail.extend(b"tail");
    assert!(
        test.refuse("a tail", &tail)
            .to_string()
            .contains("behind the end")
    );
    let text = test.refuse("a text", &[b'a'; 5000]).to_string();
    assert!(text.contains("is not a tar archive"), "{text}");
    let mut gzip = vec![0x1f, 0x8b, 8, 0];
    gzip.extend(noise(3000));
    assert!(
        test.refuse("gzip", &gzip)
            .to_string()
            .contains("is not a tar archive")
    );
}

struct OneByte<'a>(&'a [u8]);

impl Read for OneByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(1);
        self.0.read(&mut buffer[..len])
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}
