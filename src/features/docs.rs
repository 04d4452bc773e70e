//! The columns in Markdown: what each means, who looks after it, where it comes from.

use std::fmt::Write;

use arrow::datatypes::DataType;

use super::{FeatureColumn, LabelColumn};

/// One table per SQL file; columns that differ in their window alone share a row.
pub fn markdown(job: &str, columns: &[FeatureColumn], labels: &[LabelColumn]) -> String {
    let mut text =
        format!("# Features of `{job}`\n\nMade by `tenure features docs`; edit the SQL files, not this page.\n");
    let mut rest = columns;
    while let Some(first) = rest.first() {
        let of_file = rest.iter().take_while(|c| c.file == first.file).count();
        let (file, after) = rest.split_at(of_file);
        rest = after;
        let owner = first.owner.as_deref().map(|owner| format!(", owner: {}", cell(owner))).unwrap_or_default();
        let _ = write!(
            text,
            "\n## `{}`\n\nFrom `{}`{owner}.\n\n| column | type | windows | meaning |\n| --- | --- | --- | --- |\n",
            first.file, first.source
        );
        let mut named = file;
        while let Some(column) = named.first() {
            let base = base_name(column);
            let alike =
                named.iter().take_while(|c| base_name(c) == base && c.window.is_some() == column.window.is_some());
            let (same, after) = named.split_at(alike.count().max(1));
            named = after;
            let windows: Vec<&str> = same.iter().filter_map(|c| c.window.as_deref()).collect();
            let name = if windows.is_empty() { column.name.clone() } else { format!("{base}_*") };
            let meaning = cell(column.description.as_deref().unwrap_or(""));
            let _ =
                writeln!(text, "| `{name}` | {} | {} | {meaning} |", type_name(&column.data_type), windows.join(" "));
        }
    }
    if !labels.is_empty() {
        text.push_str(
            "\n## Labels\n\n| column | days ahead | without rows | meaning | file |\n| --- | --- | --- | --- | --- |\n",
        );
        for label in labels {
            let default = label.default.map(|d| d.to_string()).unwrap_or_default();
            let meaning = cell(label.description.as_deref().unwrap_or(""));
            let _ = writeln!(
                text,
                "| `{}` | {} | {default} | {meaning} | `{}` |",
                label.name, label.horizon_days, label.file
            );
        }
    }
    text
}

/// Where a page differs from the one that would be written now: the first line that does, counted from 1.
pub fn outdated(page: &str, current: &str) -> Option<usize> {
    if page == current {
        return None;
    }
    let same = page.lines().zip(current.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}

fn base_name(column: &FeatureColumn) -> &str {
    let suffix = column.window.as_ref().map(|w| format!("_{w}")).unwrap_or_default();
    column.name.strip_suffix(&suffix).unwrap_or(&column.name)
}

fn type_name(data_type: &DataType) -> String {
    let fixed = match data_type {
        DataType::Boolean => "bool",
        DataType::Int64 => "int64",
        DataType::Float64 => "float64",
        DataType::Date32 => "date",
        DataType::Timestamp(..) => "timestamp",
        DataType::List(event) => return format!("list of {}", type_name(event.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", field.name(), type_name(field.data_type())));
            return format!("({})", fields.collect::<Vec<_>>().join(", "));
        }
        _ => "utf8",
    };
    fixed.to_owned()
}

/// Text inside a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, window: Option<&str>) -> FeatureColumn {
        FeatureColumn {
            name: name.into(),
            data_type: DataType::Int64,
            description: Some("paid | unpaid".into()),
            owner: Some("growth".into()),
            file: "sql/features/orders.sql".into(),
            window: window.map(str::to_owned),
            source: "orders".into(),
        }
    }

    #[test]
    fn windows_of_a_column_share_a_row() {
        let columns =
            [column("orders_7d", Some("7d")), column("orders_lifetime", Some("lifetime")), column("age", None)];
        let page = markdown("ltv", &columns, &[]);
        assert!(page.contains("From `orders`, owner: growth."), "{page}");
        assert!(
            page.contains("| `orders_*` | int64 | 7d lifetime | paid \\| unpaid |\n| `age` | int64 |  |"),
            "{page}"
        );
    }

    #[test]
    fn an_old_page_is_told_by_its_first_wrong_line() {
        assert_eq!(outdated("a\nb\n", "a\nb\n"), None);
        assert_eq!(outdated("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(outdated("a\n", "a\nc\n"), Some(2));
    }
}
