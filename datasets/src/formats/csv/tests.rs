//! Tables of every form, and what is refused.

use peft_core::data::Dataset;
use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    folder
}

fn read(files: &[(&str, &str)], yaml: &str) -> Result<Indexed<Files>, String> {
    let folder = folder(files);
    let yaml = format!("root: {}\n{yaml}", folder.path().display());
    let config: Csv = serde_yaml::from_str(&yaml).unwrap();
    config.read().map_err(|error| error.to_string())
}

const BIRDS: &str = "all: {file: metadata.csv}
split: {column: split, train: '0', validation: '1', test: '2'}
path: img_filename
label: y
group: [y, place]
";

fn birds(rows: &str) -> Result<Indexed<Files>, String> {
    let text = format!("img_id,img_filename,y,split,place,place_filename\n{rows}");
    read(&[("metadata.csv", &text)], BIRDS)
}

#[test]
fn a_split_column_and_groups() {
    let data =
        birds("1,\"a, b/1.jpg\",0,0,0,x\n2,2.jpg,1,0,1,x\n3,3.jpg,0,1,1,x\n4,4.jpg,1,2,0,x\n")
            .unwrap();
    assert_eq!(Split::ALL.map(|split| data.len(split)), [2, 1, 1]);
    assert_eq!(&*data.splits.train[0].at.path, "a, b/1.jpg");
    assert_eq!(data.classes(), ["0", "1"]);
    assert_eq!(
        data.groups(),
        ["y=0 place=0", "y=0 place=1", "y=1 place=0", "y=1 place=1"]
    );
    assert_eq!(data.group(Split::Train, 1).unwrap(), Some(3));
    assert_eq!(data.group(Split::Validation, 0).unwrap(), Some(1));
    assert_eq!(data.label(Split::Test, 0).unwrap(), 1);
}

#[test]
fn a_part_of_the_rows_tests_where_nothing_says_which_do() {
    let rows: String = (0..20).map(|n| format!("{n}.jpg,{}\n", n % 2)).collect();
    let table = [("a.csv", format!("file,label\n{rows}"))];
    let table = table.each_ref().map(|(name, text)| (*name, text.as_str()));
    let config = "train: {file: a.csv}\npath: file\nlabel: label\ntest_fraction: 0.2\n";
    let data = read(&table, config).unwrap();
    assert_eq!(Split::ALL.map(|split| data.len(split)), [14, 2, 4]);
    let two = format!("{config}test: {{file: a.csv}}");
    assert!(
        read(&table, &two)
            .unwrap_err()
            .contains("another combination")
    );
}

#[test]
fn tables_for_each_split_beside_their_images() {
    let header = "Filename;Width;ClassId";
    let files = [
        (
            "train/00000/GT-00000.csv",
            format!("{header}\n0.ppm;9;0\n1.ppm;9;0\n"),
        ),
        (
            "train/00001/GT-00001.csv",
            format!("{header}\r\n0.ppm;9;1\r\n"),
        ),
        ("GT-final_test.csv", format!("{header}\n0.ppm;9;1\n")),
    ];
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let yaml = "train: {file: 'train/*/GT-*.csv'}
test: {file: GT-final_test.csv, images: Final_Test/Images}
path: Filename
label: ClassId
delimiter: ';'
validation_fraction: 0.5
";
    let data = read(&files, yaml).unwrap();
    let paths: Vec<_> = data.splits.iter().flatten().map(|i| &*i.at.path).collect();
    assert_eq!(paths[1], "train/00001/0.ppm");
    assert_eq!(paths[3], "Final_Test/Images/0.ppm");
    assert_eq!(Split::ALL.map(|split| data.len(split)), [2, 1, 1]);
    assert!(data.groups().is_empty());
    assert_eq!(data.group(Split::Test, 0).unwrap(), None);
}

#[test]
fn a_bad_row_is_named() {
    let fine = "1,1.jpg,0,0,0,x\n2,2.jpg,0,1,0,x\n3,3.jpg,0,2,0,x\n";
    assert!(birds(fine).is_ok());
    for (row, parts) in [
        (
            "4,4.jpg,0,7,0,x\n",
            ["line 5", "one of 0, 1, 2 in `split`, got `7`"],
        ),
        (
            "4,4.jpg,0\n",
            ["metadata.csv` line 5", "header has (6), got 3"],
        ),
        ("4,../4.jpg,0,0,0,x\n", ["line 5", "inside the root"]),
        ("4,3.jpg,0,0,0,x\n", ["line 5 and at", "line 4"]),
        ("4,,0,0,0,x\n", ["line 5", "got none"]),
    ] {
        let message = birds(&format!("{fine}{row}")).unwrap_err();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let message = birds("1,1.jpg,0,0,0,x\n").unwrap_err();
    assert!(
        message.contains("a row of the test split, got none"),
        "{message}"
    );
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    let rows = [
        "img_filename,y,split,place",
        "1.jpg,a,0,x",
        "",
        "\"2\n.jpg\",a,1,x",
        "3.jpg,a,2,x",
        "",
        "4.jpg,a,0",
    ];
    for (mark, end) in [
        ("", "\n"),
        ("", "\r\n"),
        ("\u{feff}", "\r\n"),
        ("\u{feff}", "\r"),
    ] {
        let text = |last: &str| {
            let text = [&rows[..6], &[last]].concat().join("\n");
            format!("{mark}{}{end}", text.replace('\n', end))
        };
        let read = |last: &str| read(&[("metadata.csv", &text(last))], BIRDS);
        assert!(read("4.jpg,a,0,y").is_ok());
        for (last, part) in [
            ("4.jpg,a,0", "metadata.csv` line 8: expected as many fields"),
            (
                "4.jpg,a,7,x",
                "metadata.csv` line 8: expected one of 0, 1, 2",
            ),
            ("3.jpg,a,0,x", "metadata.csv` line 6"),
            (
                "4.jpg,-1,0,x",
                "metadata.csv` line 8: expected the label of a class, got `-1`",
            ),
        ] {
            let message = read(last).unwrap_err();
            assert!(message.contains(part), "{end:?}: {message}");
        }
    }
}

#[test]
fn columns_and_combinations_are_checked() {
    let table = [("a.csv", "file,label\n1.jpg,cat\n")];
    let tables = |train: &str, rest: &str| {
        let yaml = format!("train: {{file: {train}}}\ntest: {{file: a.csv}}\nlabel: label\n{rest}");
        read(&table, &yaml).unwrap_err()
    };
    for (message, part) in [
        (
            tables("a.csv", "path: path"),
            "a.csv`: expected a column `path`, got file, label",
        ),
        (
            tables("b.csv", "path: file"),
            "b.csv`: expected a file of `train: b.csv`, got none",
        ),
        (
            tables("a.csv", "path: file\ndelimiter: \u{2192}"),
            "invalid `delimiter`",
        ),
        (
            tables("a.csv", "path: File"),
            "got file, label (did you mean `file`?)",
        ),
        (
            tables("a.csv", "path: file\ndelimiter: ;"),
            "got file,label (set `delimiter` if ',' separates the columns)",
        ),
        (
            read(
                &[("a.csv", "file,label,label\n1.jpg,0,1\n")],
                "train: {file: a.csv}\ntest: {file: a.csv}\npath: file\nlabel: label",
            )
            .unwrap_err(),
            "expected a column `label`, got two of that name",
        ),
        (tables("a.csv", "path: file"), "`1.jpg` is listed twice"),
        (
            read(&table, "train: {file: a.csv}\npath: file\nlabel: label").unwrap_err(),
            "or `train` and either `test` or `test_fraction`",
        ),
    ] {
        assert!(message.contains(part), "{message}");
    }
}
const MANY: &str = "all: {file: a.csv}
split: {column: split, train: a, validation: b, test: c}
path: file
";

fn labels(data: &Indexed<Files>, split: Split) -> Vec<Vec<usize>> {
    let of = |index| data.labels(split, index).unwrap();
    (0..data.len(split)).map(of).collect()
}

#[test]
fn images_have_several_labels() {
    let text = "file,split,tags,sea,sky\n1.jpg,a,sky|sea,1,1\n2.jpg,a,,0,0\n\
                3.jpg,b,sea,1,0\n4.jpg,c,sky,0,1\n";
    for fields in ["label: tags\nseparator: '|'\n", "one_hot: [sea, sky]\n"] {
        let data = read(&[("a.csv", text)], &format!("{MANY}{fields}")).unwrap();
        assert!(data.is_multi_label());
        assert_eq!(data.classes(), ["sea", "sky"]);
        assert_eq!(labels(&data, Split::Train), [vec![0, 1], vec![]]);
        assert_eq!(labels(&data, Split::Validation), [[0]]);
        assert_eq!(labels(&data, Split::Test), [[1]]);
        let message = data.label(Split::Train, 0).unwrap_err().to_string();
        assert!(message.contains("expected one label, got any"), "{message}");
    }
}

#[test]
fn a_part_of_all_images_is_set_aside_where_they_have_several_labels() {
    let rows: String = (0..20)
        .map(|n| format!("{n}.jpg,{} {}\n", n % 2, 2 + n))
        .collect();
    let table = format!("file,label\n{rows}");
    let config =
        "train: {file: a.csv}\npath: file\nlabel: label\nseparator: ' '\ntest_fraction: 0.2\n";
    let data = read(&[("a.csv", &table)], &format!("{config}names: classes.txt")).err();
    assert!(data.is_some_and(|message| message.contains("classes.txt")));
    let names: String = (0..22).map(|n| format!("{n}\n")).collect();
    let folder = folder(&[("a.csv", &table), ("classes.txt", &names)]);
    let root = folder.path().display();
    let yaml = format!("root: {root}\n{config}names: {root}/classes.txt");
    let config: Csv = serde_yaml::from_str(&yaml).unwrap();
    let data = config.read().unwrap();
    assert_eq!(Split::ALL.map(|split| data.len(split)), [14, 2, 4]);
}

#[test]
fn fields_of_several_labels_exclude_each_other() {
    let text = "file,split,tags,sea,sky\n1.jpg,a,sky|sea,1,2\n2.jpg,a,,0,0\n3.jpg,b,sea,1,0\n4.jpg,c,sky,0,1\n";
    for (fields, part) in [
        (
            "one_hot: [sea, sky]",
            "line 2: expected 0 or 1 in `sky`, got `2`",
        ),
        (
            "one_hot: [sea, sun]",
            "expected a column `sun`, got file, split",
        ),
        (
            "one_hot: [sea]\nlabel: tags",
            "either `label`, a column, or `one_hot`",
        ),
        ("separator: '|'", "either `label`, a column, or `one_hot`"),
        (
            "label: tags\nseparator: ','",
            "another character than the `delimiter`",
        ),
        (
            "label: tags\nseparator: '|'\ngroup: [sea]",
            "no columns where images have several labels",
        ),
        (
            "label: tags\nseparator: '|'\nunlabelled: skip",
            "`fail` where images have several labels",
        ),
    ] {
        let message = read(&[("a.csv", text)], &format!("{MANY}{fields}\n")).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}
