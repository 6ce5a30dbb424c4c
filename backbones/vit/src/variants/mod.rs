//! The table of the family's variants: sizes, options and the images that the weights were trained on.

mod plain;
mod rotary;
mod row;
mod siglip;

pub(crate) use row::{DEFAULT, Row};

/// timm's variants.
pub(crate) static VARIANTS: [(&str, Row); 118] = {
    let tables: [&[(&str, Row)]; 3] = [&plain::VARIANTS, &rotary::VARIANTS, &siglip::VARIANTS];
    let mut all = [plain::VARIANTS[0]; 118];
    let (mut count, mut table) = (0, 0);
    while table < tables.len() {
        let mut row = 0;
        while row < tables[table].len() {
            all[count] = tables[table][row];
            (count, row) = (count + 1, row + 1);
        }
        table += 1;
    }
    assert!(
        count == all.len(),
        "the tables have another number of variants"
    );
    all
};

/// The names of the table.
pub(crate) fn variants() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}
