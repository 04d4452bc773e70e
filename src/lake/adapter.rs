//! The declared columns as expressions over the columns that a Parquet file has.
//!
//! DataFusion asks once per file: what a query reads, and what it filters by, is put in terms of the file. A column has another
//! name there, stands in a struct, is not there at all, or is of another type.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as FusionResult, ScalarValue};
use datafusion::functions::core::get_field;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::{CastExpr, Column, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};

use super::conversion::{Conversion, Unfit, Zones, convert, plain};
use super::tables;
use crate::Error;
use crate::spec::{ColumnSpec, ColumnType, TableSpec};

/// Where the schema of a file says which file it is of.
const FILE: &str = "tenure.file";

/// A file's schema that says which file it is of, for the messages of what is read from it.
pub(super) fn named_schema(schema: &Schema, file: &str) -> SchemaRef {
    let mut metadata = schema.metadata().clone();
    metadata.insert(FILE.to_owned(), file.to_owned());
    Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))
}

/// Reads the columns of one table.
#[derive(Debug)]
pub(super) struct DeclaredColumns(pub Arc<TableSpec>);

impl PhysicalExprAdapterFactory for DeclaredColumns {
    fn create(&self, _declared: SchemaRef, file: SchemaRef) -> FusionResult<Arc<dyn PhysicalExprAdapter>> {
        Ok(Arc::new(FileColumns { table: Arc::clone(&self.0), file }))
    }
}

/// The columns of a table in one file.
#[derive(Debug)]
struct FileColumns {
    table: Arc<TableSpec>,
    file: SchemaRef,
}

impl PhysicalExprAdapter for FileColumns {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> FusionResult<Arc<dyn PhysicalExpr>> {
        expr.transform_up(|expr| {
            let name = expr.downcast_ref::<Column>().map(Column::name);
            let column = name.and_then(|name| tables::file_columns(&self.table).find(|column| column.name == name));
            match column {
                Some(column) => Ok(Transformed::yes(self.read(column)?)),
                None => Ok(Transformed::no(expr)),
            }
        })
        .data()
    }
}

impl FileColumns {
    /// A declared column in terms of the file.
    fn read(&self, column: &ColumnSpec) -> FusionResult<Arc<dyn PhysicalExpr>> {
        let (zones, to) = (Zones::of(&self.table), column.column_type.arrow(self.table.timezone));
        let missing = || Ok(lit(ScalarValue::try_from(&to)?));
        let Ok(found) = tables::find_type(&self.file, &column.from) else { return missing() };
        let (found, conversion) = match Conversion::between(found, column.column_type) {
            _ if *plain(found) == DataType::Null => return missing(),
            Some(conversion) => (found.clone(), conversion),
            None => {
                let message = format!(
                    "{} has column `{}` as {}, but it is declared as {}",
                    self.file_name(),
                    column.source(),
                    tables::type_name(found),
                    column.column_type
                );
                return Err(Error::user(message).at(column.place.clone()).into());
            }
        };
        let expr = self.access(column)?;
        let field = Arc::new(Field::new(&column.name, to.clone(), true));
        let conversion = match found {
            DataType::Timestamp(_, None) if !zones.are_utc() && column.column_type == ColumnType::Timestamp => {
                Conversion::Rewrite
            }
            _ => conversion,
        };
        match conversion {
            Conversion::Cast if found == to => Ok(expr),
            Conversion::Cast => Ok(Arc::new(CastExpr::new_with_target_field(expr, field, None))),
            Conversion::Rewrite | Conversion::Checked => {
                let (table, file) = (Arc::clone(&self.table), self.file_name());
                Ok(Arc::new(CheckedCast { expr, table, file, column: column.clone(), field }))
            }
        }
    }

    /// The column or the field of a struct that holds the values.
    fn access(&self, column: &ColumnSpec) -> FusionResult<Arc<dyn PhysicalExpr>> {
        let Some((first, fields)) = column.from.split_first() else {
            return Err(Error::bug(format!("column `{}` has no name in the files", column.name)).into());
        };
        let root: Arc<dyn PhysicalExpr> = Arc::new(Column::new_with_schema(first, &self.file)?);
        if fields.is_empty() {
            return Ok(root);
        }
        let path = fields.iter().map(|field| lit(field.as_str()));
        let args = [root].into_iter().chain(path).collect();
        let options = Arc::new(ConfigOptions::default());
        Ok(Arc::new(ScalarFunctionExpr::try_new(get_field(), args, &self.file, options)?))
    }

    fn file_name(&self) -> String {
        match self.file.metadata().get(FILE) {
            Some(file) => format!("`{file}`"),
            None => "one of the files".to_owned(),
        }
    }
}

/// Values of a file in the declared type, each looked at.
#[derive(Debug)]
struct CheckedCast {
    expr: Arc<dyn PhysicalExpr>,
    table: Arc<TableSpec>,
    file: String,
    column: ColumnSpec,
    field: FieldRef,
}

impl PartialEq for CheckedCast {
    fn eq(&self, other: &Self) -> bool {
        self.expr.eq(&other.expr)
            && (&self.table.name, &self.file) == (&other.table.name, &other.file)
            && (&self.column.name, self.column.column_type) == (&other.column.name, other.column.column_type)
    }
}

impl Eq for CheckedCast {}

impl Hash for CheckedCast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
        (&self.table.name, &self.file, &self.column.name, self.column.column_type).hash(state);
    }
}

impl fmt::Display for CheckedCast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checked_cast({} AS {})", self.expr, self.column.column_type)
    }
}

impl PhysicalExpr for CheckedCast {
    fn return_field(&self, _: &Schema) -> FusionResult<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn evaluate(&self, batch: &RecordBatch) -> FusionResult<ColumnarValue> {
        let array = self.expr.evaluate(batch)?.into_array(batch.num_rows())?;
        match convert(&array, self.column.column_type, Zones::of(&self.table))? {
            Ok(array) => Ok(ColumnarValue::Array(array)),
            Err(Unfit { value, hint }) => {
                let (file, source, declared) = (&self.file, self.column.source(), self.column.column_type);
                // The scan says of which table.
                let message = format!("{file} has `{value}` in column `{source}`, which is declared as {declared}");
                Err(Error::user(message).at(self.column.place.clone()).hint(hint).into())
            }
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expr]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> FusionResult<Arc<dyn PhysicalExpr>> {
        let Some(expr) = children.into_iter().next() else { return Ok(self) };
        let Self { table, file, column, field, .. } = self.as_ref();
        Ok(Arc::new(CheckedCast {
            expr,
            table: Arc::clone(table),
            file: file.clone(),
            column: column.clone(),
            field: Arc::clone(field),
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
