//! The parameter counts that the paper prints, each beside that of a row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::row::Row;
use crate::compare::tables::table::{Column, Entry, Table};
use crate::exit::{Failure, config_error};
use crate::report::numbers::grouped;
use crate::study::claim::{Claim, Judged, Verdict};

const PRINTED: Claim = Claim {
    id: "printed-counts",
    source: "Tab. 2, 4, A5 to A9",
    claim: "the printed numbers of parameters are those of the rows beside them",
};

/// A number of parameters as the paper prints it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Printed {
    /// The label of the backbone.
    pub backbone: String,
    /// The label of the method.
    pub row: String,
    /// Its place in the paper.
    pub source: String,
    /// Millions of parameters, as a text that keeps the paper's digits.
    pub millions: String,
    /// The classes of the head that is counted too; 0 for no head. Default: those of the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
}

/// A printed number beside ours.
pub struct Compared<'a> {
    printed: &'a Printed,
    /// Trained parameters, with the head that counts.
    count: usize,
    /// Their millions with as many decimals as the paper prints.
    ours: String,
}

impl<'a> Compared<'a> {
    /// Compares a printed number with its row.
    ///
    /// # Errors
    /// If there is no such row, or the text is not a number.
    pub fn of(printed: &'a Printed, rows: &[Row], classes: usize) -> Result<Self, Failure> {
        let Printed { backbone, row, .. } = printed;
        let at = format!("paper: {row}, {backbone}");
        let mut own = rows.iter();
        let found = own.find(|r| (&r.backbone, &r.label) == (backbone, row));
        let found = found.ok_or_else(|| {
            config_error(format!(
                "{at}: expected the labels of a method and a backbone"
            ))
        })?;
        if printed.millions.parse::<f64>().is_err() {
            let got = &printed.millions;
            let message =
                format!("{at}: millions: expected a number such as \"0.12\", got {got:?}");
            return Err(config_error(message));
        }
        let decimals = printed.millions.split_once('.');
        let decimals = decimals.map_or(0, |(_, digits)| digits.len());
        let head = printed.classes.unwrap_or(classes) * (found.features + 1);
        let count = found.count.trainable + head;
        Ok(Self {
            printed,
            count,
            ours: format!("{:.decimals$}", count as f64 / 1e6),
        })
    }

    fn is_equal(&self) -> bool {
        self.ours == self.printed.millions
    }

    /// The numbers for programs.
    pub fn json(&self) -> Value {
        let Printed {
            backbone,
            row,
            source,
            millions,
            ..
        } = self.printed;
        json!({
            "backbone": backbone, "label": row, "source": source, "count": self.count, "millions": self.ours,
            "paper": millions, "equal": self.is_equal(),
        })
    }
}

/// The verdict: all printed numbers must be equal to their rows'.
pub fn judge(compared: &[Compared]) -> Judged {
    let others = compared.iter().filter(|compared| !compared.is_equal());
    let others: Vec<String> = others
        .map(|Compared { printed, ours, .. }| {
            let Printed { row, backbone, .. } = printed;
            format!(
                "{row} on {backbone} {ours} where {} is printed",
                printed.millions
            )
        })
        .collect();
    let text = format!(
        "{} of {} are equal to the last digit",
        compared.len() - others.len(),
        compared.len()
    );
    PRINTED.judged(match others.is_empty() {
        true => (Verdict::Holds, text),
        false => (
            Verdict::DoesNotHold,
            format!("{text}; not {}", others.join(", ")),
        ),
    })
}

/// The printed numbers beside ours.
pub fn table(compared: &[Compared]) -> Table {
    let row = |compared: &Compared| {
        let Printed {
            backbone,
            row,
            source,
            millions,
            ..
        } = compared.printed;
        let equal = if compared.is_equal() { "=" } else { "≠" };
        let entries = [
            source.clone(),
            millions.clone(),
            compared.ours.clone(),
            equal.to_owned(),
            grouped(compared.count),
        ];
        (
            format!("{row}, {backbone}"),
            entries.map(Entry::text).to_vec(),
        )
    };
    let numbers = ["printed, M", "counted, M", "equal", "parameters"];
    let numbers = numbers.map(|name| Column::number(name, None));
    Table {
        title: "The paper's numbers of parameters".to_owned(),
        names: "row",
        columns: [Column::words("where")]
            .into_iter()
            .chain(numbers)
            .collect(),
        rows: compared.iter().map(row).collect(),
        notes: Vec::new(),
    }
}
