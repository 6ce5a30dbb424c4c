//! Damaged files, and files that name functions.

use super::*;

fn opened(header: &str, bytes: usize) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let length = (header.len() as u64).to_le_bytes();
    let content = [&length[..], header.as_bytes(), &vec![0; bytes]].concat();
    std::fs::write(&path, content).unwrap();
    Checkpoint::open(&path)
}

/// `{"w": tensor, "x": posix.system("true")}` as `torch.save` would write it.
const NAMES_A_FUNCTION: &[u8] = b"}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(\
    (X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ\
    K\0K\x01\x85K\x01\x85\x89NtR\
    X\x01\0\0\0xcposix\nsystem\nX\x04\0\0\0true\x85Ru.";

/// A zip of these members.
fn zipped(members: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in members {
        archive.start_file(*name, options).unwrap();
        std::io::Write::write_all(&mut archive, bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Opens a file of this name with this content.
fn opened_as(name: &str, content: &[u8]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    Checkpoint::open(&path)
}

#[test]
fn a_pickle_that_names_a_function_is_read_without_calling_it_and_says_so() {
    let value = 2.5f32.to_le_bytes();
    let members = [
        ("model/data.pkl", NAMES_A_FUNCTION),
        ("model/data/0", &value),
    ];
    let file = opened_as(
        "model.pth",
        &zipped(&members, zip::CompressionMethod::Stored),
    )
    .unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(crate::params::floats(file.tensor("w").unwrap()), [2.5]);
    assert_eq!(file.named_functions().collect::<Vec<_>>(), ["posix.system"]);
}

/// Where `part` lies in `content`.
fn place(content: &[u8], part: &[u8]) -> usize {
    content
        .windows(part.len())
        .position(|own| own == part)
        .unwrap()
}

#[test]
fn a_byte_that_was_flipped_is_an_error_with_file_and_member() {
    // A value, and a name in the pickle.
    let value = 1234.5f32.to_le_bytes();
    let array = [
        &b"\x93NUMPY\x01\0\x37\0"[..],
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        &value,
    ]
    .concat();
    let stored = zip::CompressionMethod::Stored;
    let deflated = zip::CompressionMethod::Deflated;
    let pth = [
        ("model/data.pkl", NAMES_A_FUNCTION),
        ("model/data/0", &value),
    ];
    let npz = [("kernel.npy", &array[..])];
    // Of a compressed member, a byte of its stream behind the name.
    for (name, members, method, (part, behind), expected) in [
        (
            "model.pth",
            &pth[..],
            stored,
            (&value[..], 0),
            "model/data/0: expected the checksum",
        ),
        (
            "model.pth",
            &pth,
            stored,
            (b"posix", 0),
            "model/data.pkl: expected the checksum",
        ),
        (
            "model.pth",
            &pth,
            deflated,
            (b"data.pkl", 30),
            "model/data.pkl: ",
        ),
        (
            "model.npz",
            &npz,
            stored,
            (&value, 0),
            "kernel.npy: expected the checksum",
        ),
        ("model.npz", &npz, deflated, (b".npy", 30), "kernel.npy: "),
    ] {
        let whole = zipped(members, method);
        assert!(opened_as(name, &whole).is_ok(), "{expected}");
        let mut flipped = whole.clone();
        flipped[place(&whole, part) + behind] ^= 1;
        let error = opened_as(name, &flipped).err().unwrap().to_string();
        let both = error.contains(name) && error.contains(expected);
        assert!(
            both && error.contains("the file is damaged"),
            "{expected}: {error}"
        );
        for cut in [1, whole.len() / 2, whole.len() - 30] {
            let error = opened_as(name, &whole[..whole.len() - cut]).err().unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn what_is_not_read_needs_no_checksum_and_one_that_is_left_out_is_said() {
    let value = 1234.5f32.to_le_bytes();
    let members = [
        ("model/data.pkl", NAMES_A_FUNCTION),
        ("model/data/0", &value),
        ("model/data/1", b"state of an optimiser"),
    ];
    let mut content = zipped(&members, zip::CompressionMethod::Stored);
    let other = place(&content, b"optimiser");
    content[other] ^= 1;
    assert!(
        opened_as("model.pth", &content)
            .unwrap()
            .remarks()
            .is_empty()
    );
    // PyTorch writes 0 where it is told to leave checksums out; the last directory counts.
    let directory = place(&content, b"PK\x01\x02");
    let name = directory + place(&content[directory..], b"model/data/0");
    content[name - 46 + 16..name - 46 + 20].fill(0);
    let remarks = opened_as("model.pth", &content).unwrap().remarks().to_vec();
    let expected = "1 of the 1 parts of the file that are read have no checksum";
    assert!(remarks[0].starts_with(expected), "{remarks:?}");
}

#[test]
fn a_header_is_checked_against_the_file() {
    let entry = |start: usize, end: usize| {
        format!(r#"{{"dtype": "F32", "shape": [1], "data_offsets": [{start}, {end}]}}"#)
    };
    let (first, second) = (entry(0, 4), entry(4, 8));
    let good = format!(r#"{{"a": {first}, "b": {second}}}"#);
    assert_eq!(opened(&good, 8).unwrap().names().count(), 2);
    let twice = format!(r#"{{"a": {second}, "b": {first}, "a": {second}}}"#);
    let overlapping = format!(r#"{{"a": {first}, "b": {}}}"#, entry(2, 6));
    let (hole, past) = (entry(8, 12), entry(4, 12));
    let hole = format!(r#"{{"a": {first}, "b": {hole}}}"#);
    let past = format!(r#"{{"a": {first}, "b": {past}}}"#);
    let short = format!(r#"{{"a": {first}}}"#);
    let reversed = format!(r#"{{"a": {}}}"#, entry(8, 0));
    let huge =
        r#"{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}"#;
    for (header, expected) in [
        (twice.as_str(), "\"a\" twice"),
        (&overlapping, "expected a safetensors file"),
        (huge, "expected a safetensors file"),
        (&hole, "expected a safetensors file"),
        (&past, "expected a safetensors file"),
        // Bytes that belong to no tensor.
        (&short, "expected a safetensors file"),
        (&reversed, "expected a safetensors file"),
    ] {
        let error = opened(header, 8).err().unwrap().to_string();
        assert!(error.contains(expected), "{header}: {error}");
    }
}
