//! What the pages promise: tables that quote `docs/performance.json`, commands that run, links that lead somewhere, and
//! messages and results that the program gives.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::methods::{read, root};
use crate::{folder, run, succeeded, summary};

/// The README and every page of `docs/`, by path from the root.
fn pages() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let names = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
    paths.sort();
    let paths = paths.iter().map(|name| format!("docs/{name}"));
    let front = ["README.md", "CONTRIBUTING.md"].map(str::to_owned);
    let paths = front.into_iter().chain(paths);
    paths.map(|path| (path.clone(), read(&path))).collect()
}

/// The blocks of a page in that language, without their fences.
fn blocks<'a>(page: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    let fenced = page.split("```").skip(1).step_by(2);
    fenced.filter_map(move |block| block.strip_prefix(language)?.strip_prefix('\n'))
}

/// The text that `benches/tables.py` writes into a page.
fn rendered(table: &Value) -> String {
    let text = |key: &str| table[key].as_str().unwrap();
    let row = |row: &Value| {
        let cells: Vec<_> = row
            .as_array()
            .unwrap()
            .iter()
            .map(|cell| cell.as_str().unwrap())
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let setting = match text("setting") {
        "" => String::new(),
        setting => format!("{setting}; "),
    };
    let header = &table["header"];
    let rule = "|---".repeat(header.as_array().unwrap().len());
    let rows: String = table["rows"].as_array().unwrap().iter().map(row).collect();
    format!(
        "{setting}`{}` ({}, {}, commit {}):\n\n{}{rule}|\n{rows}",
        text("command"),
        text("machine"),
        text("date"),
        text("commit"),
        row(header),
    )
}

#[test]
fn every_table_of_performance_stands_in_one_page_and_is_the_files() {
    let tables: BTreeMap<String, Value> =
        serde_json::from_str(&read("docs/performance.json")).unwrap();
    let mut places: BTreeMap<&str, Vec<String>> = tables
        .keys()
        .map(|name| (name.as_str(), Vec::new()))
        .collect();
    for (path, page) in pages() {
        for quote in page.split("<!-- table: ").skip(1) {
            let (name, rest) = quote.split_once(" -->\n").unwrap();
            let (quoted, _) = rest.split_once("<!-- end -->").unwrap();
            let table = tables.get(name);
            let table = table.unwrap_or_else(|| panic!("{path}: {name} is not in the file"));
            assert_eq!(
                quoted,
                rendered(table),
                "{path}: {name}; run `benches/tables.py --write`"
            );
            places.get_mut(name).unwrap().push(path.clone());
        }
    }
    for (name, pages) in places {
        assert_eq!(pages.len(), 1, "{name} stands in {pages:?}");
    }
}

#[test]
fn the_front_page_fits_its_length() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 110, "{lines} lines");
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading() {
    for (path, page) in pages() {
        let here = root().join(&path);
        for link in page.split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => here.clone(),
                file => here.parent().unwrap().join(file),
            };
            assert!(file.exists(), "{path}: {target}");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(found, "{path}: {target}");
            }
        }
    }
}

/// The words of a command line: single quotes hold a word together, and `#` begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            '#' if !quoted && word.is_empty() => break,
            ' ' if !quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    words
}

fn runner_in(place: &Path, args: &[String]) -> Output {
    let mut command = crate::program();
    command.args(args).current_dir(place).output().unwrap()
}

/// The settings that make a command of the front page short: an epoch, a step, the plan of a
/// comparison.
fn shortened(mut args: Vec<String>) -> Vec<String> {
    let more: &[&str] = match args[0].as_str() {
        "--config" | "train" => &["--set", "recipe.epochs=1", "--device", "cpu"],
        "compare" => &["--dry-run", "--device", "cpu"],
        "profile" => &["--warmup", "0", "--steps", "1", "--device", "cpu"],
        "doctor" => &["--only", "ops/gelu"],
        _ => &[],
    };
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args
}

#[test]
fn the_commands_of_the_front_page_run() {
    let place = tempfile::tempdir().unwrap();
    let image = image::RgbImage::from_pixel(20, 20, image::Rgb([9, 200, 30]));
    image.save(place.path().join("image.png")).unwrap();
    let page = read("README.md");
    let lines = blocks(&page, "sh").flat_map(str::lines);
    let mut first_run = None;
    let mut commands = 0;
    for line in lines.filter_map(|line| {
        let first = line.strip_prefix("cargo run --release -- ");
        first.or_else(|| line.strip_prefix("runner "))
    }) {
        let args = words(line).into_iter().map(|word| match word.as_str() {
            "RUN" => String::clone(first_run.as_ref().expect("a run before RUN")),
            _ => word,
        });
        let output = runner_in(place.path(), &shortened(args.collect()));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "runner {line}\n{error}");
        let text = String::from_utf8(output.stdout).unwrap();
        let run = text.lines().find_map(|line| line.strip_prefix("run "));
        first_run = first_run.or(run.map(|run| run.trim().to_owned()));
        commands += 1;
    }
    assert!(commands >= 12, "{commands} commands");
}

#[test]
fn the_first_run_of_the_front_page_is_planned_so() {
    let place = tempfile::tempdir().unwrap();
    let args = ["--config", "quickstart", "--device", "cpu", "--dry-run"];
    let plan = succeeded(runner_in(place.path(), &args.map(str::to_owned)));
    let page = read("README.md");
    let shown = blocks(&page, "text").next().unwrap();
    let (planned, results) = shown.split_once("...\n").unwrap();
    for line in planned.lines() {
        assert!(plan.contains(line), "{line:?} is not in\n{plan}");
    }
    let run = results.lines().last().unwrap();
    let slug = run.rsplit('/').next().unwrap();
    assert!(plan.contains(slug), "{slug:?} is not in\n{plan}");
    let (_, result) = header("quickstart");
    let (top1, _) = result.split_once(" % test top-1").unwrap();
    assert!(
        results.contains(&format!("{top1} %\n")),
        "{top1} % is not in\n{results}"
    );
}

#[test]
fn the_first_hour_is_that_of_its_script() {
    let (page, script) = (read("docs/first-hour.md"), read("scripts/first-hour.sh"));
    let steps = script.split("\n# page\n").skip(1);
    let steps: Vec<&str> = steps
        .map(|rest| rest.split_once("# end\n").unwrap().0)
        .collect();
    let quoted: Vec<&str> = blocks(&page, "sh").collect();
    assert_eq!(quoted, steps);
    assert!(steps.len() > 5, "{} steps", steps.len());
    let programs: Vec<&str> = blocks(&page, "python").collect();
    assert!(!programs.is_empty() && programs.iter().all(|program| script.contains(program)));
}

/// The lines of `docs/troubleshooting.md` after a `$ runner ..` are what that command prints; `...` stands for what
/// is left out.
#[test]
fn the_messages_of_troubleshooting_are_the_programs() {
    let place = tempfile::tempdir().unwrap();
    let page = read("docs/troubleshooting.md");
    let mut commands = 0;
    for block in blocks(&page, "console") {
        let (command, message) = block.split_once('\n').unwrap();
        let Some(line) = command.strip_prefix("$ runner ") else {
            continue;
        };
        if line.contains("--device cuda") && Path::new("/dev/nvidia0").exists() {
            continue;
        }
        let mut args = words(line);
        if ["--config", "train"].contains(&args[0].as_str()) && !line.contains("--device") {
            args.extend(["--device", "cpu"].map(str::to_owned));
        }
        let output = runner_in(place.path(), &args);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut rest = printed.as_str();
        for part in message
            .split("...")
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let found = rest.split_once(part);
            let (_, after) =
                found.unwrap_or_else(|| panic!("{command}: {part:?} is not in\n{printed}"));
            rest = after;
        }
        commands += 1;
    }
    assert!(commands >= 10, "{commands} commands");
}

/// The command and the result in the header of a shipped experiment.
fn header(name: &str) -> (String, String) {
    let text = read(&format!("configs/{name}.yaml"));
    let comments = text.lines().map_while(|line| line.strip_prefix('#'));
    let lines: Vec<_> = comments.map(str::trim).collect();
    let starting = |word: &str| {
        let found = lines.iter().find_map(|line| line.strip_prefix(word));
        found
            .unwrap_or_else(|| panic!("{name}: no line with {word:?}"))
            .trim()
            .to_owned()
    };
    (starting("runner "), starting("Result:"))
}

#[test]
fn every_shipped_experiment_states_its_command_and_its_result() {
    let folder = root().join("configs/peft");
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|file| {
        file.unwrap()
            .path()
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    });
    for name in names
        .map(|name| format!("peft/{name}"))
        .chain(["quickstart".to_owned()])
    {
        let (command, result) = header(&name);
        let config = words(&command)[1].trim_end_matches(".yaml").to_owned();
        assert_eq!(config, name, "{command}");
        let needs_weights = name.starts_with("peft/vit-large-");
        let expected = if needs_weights {
            "none"
        } else {
            " % test top-1"
        };
        assert!(result.contains(expected), "{name}: {result}");
    }
}

/// The figure of a header is that of its machine to the last digit. Other vector instructions round otherwise, which
/// may move a few of the 360 images.
#[test]
fn the_stated_results_are_those_of_a_run() {
    let exact = peft_ops::level().unwrap().of_f32() == peft_ops::Level::Avx512;
    for name in ["peft/linear-probe", "peft/ap"] {
        let (command, result) = header(name);
        let runs = tempfile::tempdir().unwrap();
        let mut args = words(&command);
        args.extend(["--device", "cpu"].map(str::to_owned));
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        succeeded(run(&args, runs.path()));
        let got = 100.0 * summary(runs.path())["test"]["top1"].as_f64().unwrap();
        let (stated, _) = result.split_once(" %").unwrap();
        let stated: f64 = stated.parse().unwrap();
        let tolerance = if exact { 0.005 } else { 2.0 };
        let place = folder(runs.path());
        assert!(
            (got - stated).abs() <= tolerance,
            "{name}: {got} in {}",
            place.display()
        );
    }
}

/// Whether a text in backquotes is the path of a file or folder of the repository. What commands write, which git
/// ignores, is there or is not.
fn is_a_path(text: &str, ignored: &str) -> bool {
    let top = text.split('/').next().unwrap_or_default();
    let kept = !ignored.lines().any(|line| line == format!("/{top}"));
    let written = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    written && kept && text.contains('/') && !top.is_empty() && root().join(top).is_dir()
}

#[test]
fn every_path_that_a_page_names_is_there() {
    let ignored = read(".gitignore");
    let mut named = 0;
    for (path, page) in pages() {
        let prose: String = page.split("```").step_by(2).collect();
        let trees = blocks(&page, "text").flat_map(str::lines);
        let trees = trees.filter_map(|line| line.split_whitespace().next());
        for text in prose.split('`').skip(1).step_by(2).chain(trees) {
            if is_a_path(text, &ignored) {
                assert!(root().join(text).exists(), "{path}: {text}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named} paths");
}
