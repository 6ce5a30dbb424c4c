//! Published scores, and ours beside them.

use super::table::{Column, Entry, NONE, Table};
use crate::compare::results::Published;
use crate::compare::scores::Scores;
use crate::compare::statistics::moments::mean;

/// The number of data sets in one table.
const WIDE: usize = 8;

/// Makes a table of means and tables by data set; none if nothing was published on the backbone.
pub fn published(scores: &Scores, backbone: &str) -> Vec<Table> {
    let results = scores.results;
    let on_backbone = |published: &&Published| published.backbone == backbone;
    let rows: Vec<&Published> = results.expected.iter().filter(on_backbone).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let ours = |row: &Published, dataset: &str| {
        let trials = scores.at(backbone, &row.method, dataset)?;
        Some(100.0 * trials.score()?.mean)
    };
    let means = rows.iter().map(|row| {
        let pairs = row.scores.iter();
        let pairs = pairs.filter_map(|(dataset, theirs)| Some((ours(row, dataset)?, *theirs)));
        let (own, theirs): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let means = mean(&own).zip(mean(&theirs));
        let text = |text: Option<String>| Entry::text(text.unwrap_or_else(|| NONE.to_owned()));
        let entries = vec![
            Entry::text(format!("{} of {}", own.len(), row.scores.len())),
            text(means.map(|(own, _)| format!("{own:.1}"))),
            text(means.map(|(_, theirs)| format!("{theirs:.1}"))),
            text(means.map(|(own, theirs)| format!("{:+.1}", own - theirs))),
        ];
        (row.method.clone(), entries)
    });
    let columns = ["data sets", "ours", "published", "difference"];
    let mut tables = vec![Table {
        title: format!("{backbone}: means beside published ones, in %"),
        names: "method",
        columns: columns.map(|name| Column::number(name, None)).to_vec(),
        rows: means.collect(),
        notes: vec!["Over the data sets that have both.".to_owned()],
    }];
    let datasets = results.datasets.iter().map(|dataset| &dataset.label);
    let datasets: Vec<&String> = datasets
        .filter(|label| rows.iter().any(|row| row.scores.contains_key(*label)))
        .collect();
    for part in datasets.chunks(WIDE) {
        let entry = |row: &Published, dataset: &str| {
            let number = |value: Option<f64>| {
                value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.1}"))
            };
            let theirs = row.scores.get(dataset).copied();
            Entry::text(format!(
                "{} / {}",
                number(ours(row, dataset)),
                number(theirs)
            ))
        };
        let lines = rows.iter().map(|row| {
            let entries = part.iter().map(|dataset| entry(row, dataset));
            (row.method.clone(), entries.collect())
        });
        tables.push(Table {
            title: format!("{backbone}: ours / published, in %"),
            names: "method",
            columns: (part.iter().map(|name| Column::number(*name, None))).collect(),
            rows: lines.collect(),
            notes: Vec::new(),
        });
    }
    if let Some(last) = tables.last_mut() {
        last.notes.extend(sources(&rows));
    }
    tables
}

/// A line for each source, with the methods that it is of; for one source of all, the source alone.
fn sources(rows: &[&Published]) -> Vec<String> {
    let mut sources: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        match sources.iter_mut().find(|(source, _)| *source == row.source) {
            Some((_, methods)) => methods.push(&row.method),
            None => sources.push((&row.source, vec![&row.method])),
        }
    }
    let alone = sources.len() == 1;
    let line = |(source, methods): (&str, Vec<&str>)| match alone {
        true => format!("Published: {source}."),
        false => format!("Published of {}: {source}.", methods.join(", ")),
    };
    sources.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample;

    #[test]
    fn ours_stand_beside_what_was_published() {
        let mut results = sample::results(3, 2);
        assert!(published(&Scores::of(&results), "vit-micro").is_empty());
        let row = |method: &str, source: &str, scores: &[(&str, f64)]| Published {
            method: method.to_owned(),
            backbone: "vit-micro".to_owned(),
            source: source.to_owned(),
            scores: (scores
                .iter()
                .map(|(label, score)| ((*label).to_owned(), *score)))
            .collect(),
        };
        results.expected = vec![
            row(
                "lora",
                "A et al., 2024",
                &[("flowers", 80.0), ("pets", 70.0)],
            ),
            row(
                "ssf",
                "B et al., 2023",
                &[("pets", 71.5), ("elsewhere", 1.0)],
            ),
        ];
        let scores = Scores::of(&results);
        assert!(published(&scores, "resnet50").is_empty());
        let tables = published(&scores, "vit-micro");
        let [means, by_set] = tables.as_slice() else {
            panic!("{} tables", tables.len());
        };
        let ours = |method: &str, dataset: &str| {
            let trials = scores.at("vit-micro", method, dataset).unwrap();
            100.0 * trials.score().unwrap().mean
        };
        let lines = |table: &Table, row: usize| -> Vec<String> {
            table.rows[row].1.iter().map(Entry::line).collect()
        };
        let own = (ours("lora", "flowers") + ours("lora", "pets")) / 2.0;
        let expected = [
            "2 of 2".to_owned(),
            format!("{own:.1}"),
            "75.0".to_owned(),
            format!("{:+.1}", own - 75.0),
        ];
        assert_eq!(lines(means, 0), expected);
        assert_eq!(lines(means, 1)[0], "1 of 2");
        let expected = [
            format!("{:.1} / –", ours("ssf", "flowers")),
            format!("{:.1} / 71.5", ours("ssf", "pets")),
        ];
        assert_eq!(lines(by_set, 1), expected);
        let notes = [
            "Published of lora: A et al., 2024.",
            "Published of ssf: B et al., 2023.",
        ];
        assert_eq!(by_set.notes, notes);
    }
}
