//! `report.html` of a study: its claims with their verdicts, its figures and tables, in one file that loads nothing.

use std::fmt::Write;

use crate::compare::page::STYLE;
use crate::compare::tables::table::Table;
use crate::report::document::{details, escape, note, page, section, yaml};
use crate::study::Study;
use crate::study::outcome::Outcome;

/// The style that studies add to that of comparisons.
const OWN: &str = "\
svg .cell { fill: var(--heat); }
.verdict { font-weight: 600; }
.claim { border-left: 4px solid var(--line); padding-left: 0.7rem; margin: 0.8rem 0; }
.claim p { margin: 0.15rem 0; }
";

/// The whole page.
pub fn html(study: &Study, outcome: &Outcome) -> String {
    let figures = match outcome.figures.is_empty() {
        true => String::new(),
        false => format!(
            "<div class=\"charts\">\n{}</div>\n",
            outcome.figures.concat()
        ),
    };
    let notes: String = outcome.notes.iter().map(|text| note(text)).collect();
    let tables: String = outcome.tables.iter().map(table).collect();
    let settings = serde_yaml::to_string(&outcome.settings).unwrap_or_default();
    let body = [
        format!(
            "<p>{} ({}).</p>\n",
            escape(study.summary),
            escape(study.source)
        ),
        section("Claims", &claims(outcome)),
        section("Figures", &figures),
        section("Results", &(tables + &notes)),
        details("Settings", &yaml(&settings)),
    ];
    page(study.name, &format!("{STYLE}{OWN}"), &body.concat())
}

fn claims(outcome: &Outcome) -> String {
    let mut html = String::new();
    for judged in &outcome.claims {
        let _ = writeln!(
            html,
            "<div class=\"claim\">\n<p>{} <span class=\"note\">{}, {}</span></p>\n\
             <p><span class=\"verdict\">{}</span>: {}</p>\n</div>",
            escape(judged.claim),
            escape(&judged.id),
            escape(judged.source),
            judged.verdict.words(),
            escape(&judged.reason)
        );
    }
    html
}

fn table(table: &Table) -> String {
    let class = |words: bool| if words { " class=\"words\"" } else { "" };
    let mut html = format!(
        "<div class=\"table\">\n<h3>{}</h3>\n<div class=\"wide\">\n<table class=\"grid\">\n<thead><tr>\
         <th scope=\"col\">{}</th>",
        escape(&table.title),
        escape(table.names)
    );
    for column in &table.columns {
        let (class, name) = (class(column.words), escape(&column.name));
        let _ = write!(html, "<th scope=\"col\"{class}>{name}</th>");
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (name, row) in &table.rows {
        let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(name));
        for (entry, column) in row.iter().zip(&table.columns) {
            let (class, text) = (class(column.words), escape(&entry.line()));
            let _ = write!(html, "<td{class}>{text}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</div>\n");
    html.extend(table.notes.iter().map(|text| note(text)));
    html.push_str("</div>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::document::check;
    use crate::study::STUDIES;
    use crate::study::claim::{Claim, Verdict};
    use crate::study::figure::heat::Heat;
    use crate::study::figure::lines::{Line, Lines, Scale};
    use crate::study::table::{number, numbers};

    #[test]
    fn a_page_is_whole_escaped_and_loads_nothing() {
        let names = ["a <b>".to_owned(), "c & d".to_owned()];
        let heat = Heat {
            title: "heat <1>",
            x: "columns",
            y: "rows",
            columns: &names,
            rows: &names,
            cells: &[vec![Some(0.1), None], vec![Some(-0.2), Some(1.0)]],
        };
        let points = |scale: f64| [(1.0, scale), (2.0, 2.0 * scale), (3.0, f64::NAN)];
        let lines = [
            Line::new("one <line>", points(1.0)),
            Line::new("two", points(3.0)),
        ];
        let plot = |scale| {
            let plot = Lines {
                title: "lines & more",
                x: "x",
                scale,
                lines: &lines,
            };
            plot.svg()
        };
        let claim = Claim {
            id: "id",
            source: "Fig. <2>",
            claim: "a < b",
        };
        let outcome = Outcome {
            claims: vec![claim.judged((Verdict::Holds, "1 < 2".to_owned()))],
            tables: vec![numbers(
                "table",
                "row",
                &["value"],
                vec![("<r>".to_owned(), vec![number(Some(1e9))])],
            )],
            figures: vec![heat.svg(), plot(Scale::Whole), plot(Scale::Logarithmic)],
            notes: vec!["note <n>".to_owned()],
            ..Outcome::default()
        };
        assert!(
            outcome
                .figures
                .iter()
                .all(|figure| figure.starts_with("<svg"))
        );
        for study in STUDIES {
            let page = html(study, &outcome);
            check(&page);
            assert!(page.contains("<h1>") && page.contains("1 &lt; 2") && page.contains("1.00e9"));
        }
    }
}
