//! How columns of states lie in a file: in fewer bytes than in memory, and quicker to unpack.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{RowConverter, SortField};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::{from_hex, hex};
use crate::{Error, Result};

/// What amounts are multiplied by, to be whole.
const DIVISORS: [i64; 4] = [1, 10, 100, 1000];
/// What is left of sums of amounts when they are rounded is few of so small parts of 1.
const PARTS: [i64; 5] = [1 << 50, 1 << 53, 1 << 56, 1 << 59, 1 << 62];
/// Sums of amounts lie so few doubles beside the amount that they stand for, as powers of 2.
const BESIDE_BITS: u32 = 4;
/// Whole numbers below are doubles.
const EXACT: f64 = (1u64 << 53) as f64;
/// A set of so many values is a whole number, a bit for each.
const MOST_VALUES: usize = u64::BITS as usize;

/// What a column of a file is, beside the column that it stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    Same,
    /// This value in every row: the column need not be read.
    All(#[serde(serialize_with = "write_array", deserialize_with = "read_array")] ArrayRef),
    /// Whole numbers, which become the doubles of the column when they are divided by this: amounts of money are few of its
    /// smallest coins.
    Divided(i64),
    /// The same, and in the lowest bits how many doubles further the one of the column is.
    Beside(i64),
    /// A bit for each of these values: the lists of a column have each at most once, and in no order that matters.
    Bits(#[serde(serialize_with = "write_array", deserialize_with = "read_array")] ArrayRef),
}

/// A column of states as it is unpacked.
#[derive(Debug, Clone)]
pub(in crate::features::fusion) struct Column {
    pub array: ArrayRef,
    /// What the bits of the array's numbers stand for, where it has bits in place of lists.
    pub values: Option<ArrayRef>,
}

impl Column {
    /// Some of its rows.
    pub fn slice(&self, from: usize, length: usize) -> Column {
        Column { array: self.array.slice(from, length), values: self.values.clone() }
    }

    /// The array, and the values of its bits.
    pub fn into_arrays(self) -> impl Iterator<Item = ArrayRef> {
        std::iter::once(self.array).chain(self.values)
    }
}

impl Form {
    /// The best form of a column, and what is written of it.
    pub fn of(column: ArrayRef) -> Result<(Form, ArrayRef)> {
        if let Some(value) = one_value(&column) {
            return Ok((Form::All(value), column));
        }
        let found = match column.data_type() {
            DataType::Float64 => whole(&column),
            DataType::List(_) => bits(&column)?,
            _ => None,
        };
        Ok(found.unwrap_or((Form::Same, column)))
    }

    /// Whether the column has to be read.
    pub fn is_read(&self) -> bool {
        !matches!(self, Form::All(_))
    }

    /// The column that was written, of so many rows; it is given where it has to be read.
    pub fn unpacked(&self, column: Option<ArrayRef>, rows: usize) -> Result<Column> {
        let array = match self {
            Form::All(value) => repeated(value, rows)?,
            _ => column.ok_or_else(|| Error::bug("a column was not read"))?,
        };
        self.of_array(array)
    }

    fn of_array(&self, column: ArrayRef) -> Result<Column> {
        Ok(match self {
            Form::Same | Form::All(_) => Column { array: column, values: None },
            // The same, and quicker.
            Form::Divided(by) if PARTS.contains(by) => {
                let part = 1.0 / *by as f64;
                doubles(column, |x| x as f64 * part)?
            }
            Form::Divided(by) => doubles(column, |x| quotient(x, *by))?,
            Form::Beside(by) => doubles(column, |x| beside(x, *by))?,
            Form::Bits(values) => Column { array: column, values: Some(Arc::clone(values)) },
        })
    }
}

/// The value of a column that has no other in any row, where it is a simple one.
fn one_value(column: &ArrayRef) -> Option<ArrayRef> {
    if column.is_empty() || column.null_count() > 0 {
        return None;
    }
    let one = match column.data_type() {
        DataType::Int64 => all_same(column.as_primitive::<Int64Type>().values(), |x| *x),
        DataType::Float64 => all_same(column.as_primitive::<Float64Type>().values(), |x| x.to_bits()),
        DataType::Boolean => [0, column.len()].contains(&column.as_boolean().true_count()),
        DataType::Binary => column.as_binary::<i32>().iter().flatten().all(<[u8]>::is_empty),
        _ => false,
    };
    one.then(|| column.slice(0, 1))
}

fn all_same<N, B: PartialEq>(values: &[N], bits: impl Fn(&N) -> B) -> bool {
    values.iter().all(|x| bits(x) == bits(&values[0]))
}

fn repeated(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    Ok(match value.data_type() {
        DataType::Int64 => Arc::new(Int64Array::from(vec![value.as_primitive::<Int64Type>().value(0); rows])),
        DataType::Float64 => Arc::new(Float64Array::from(vec![value.as_primitive::<Float64Type>().value(0); rows])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![value.as_boolean().value(0); rows])),
        DataType::Binary => Arc::new(BinaryArray::from(vec![value.as_binary::<i32>().value(0); rows])),
        other => return Err(Error::bug(format!("a column of `{other}` has one value"))),
    })
}

fn quotient(whole: i64, by: i64) -> f64 {
    whole as f64 / by as f64
}

fn beside(code: i64, by: i64) -> f64 {
    let further = (code & ((1 << BESIDE_BITS) - 1)) - (1 << (BESIDE_BITS - 1));
    f64::from_bits(quotient(code >> BESIDE_BITS, by).to_bits().wrapping_add(further as u64))
}

/// The doubles that whole numbers stand for.
fn doubles(column: ArrayRef, double: impl Fn(i64) -> f64) -> Result<Column> {
    let wrong = || Error::bug(format!("`{}` is no whole number", column.data_type()));
    let whole = column.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    Ok(Column { array: Arc::new(whole.unary::<_, Float64Type>(double)), values: None })
}

/// Whole numbers in place of doubles, where every one comes back to the last bit.
fn whole(column: &ArrayRef) -> Option<(Form, ArrayRef)> {
    let doubles = column.as_primitive_opt::<Float64Type>()?;
    let all = |whole: &dyn Fn(f64) -> Option<i64>| {
        let whole = doubles.try_unary::<_, Int64Type, _>(|x| whole(x).ok_or(())).ok()?;
        Some(Arc::new(whole) as ArrayRef)
    };
    let rounded = |x: f64, by: i64| Some((x * by as f64).round()).filter(|x| x.abs() < EXACT).map(|x| x as i64);
    let divided = |by: i64| {
        let found = all(&|x| rounded(x, by).filter(|whole| quotient(*whole, by).to_bits() == x.to_bits()))?;
        Some((Form::Divided(by), found))
    };
    let near = |by: i64| {
        let code = |x: f64| {
            let whole = rounded(x, by)?;
            let further = (x.to_bits().wrapping_sub(quotient(whole, by).to_bits()) as i64)
                .checked_add(1 << (BESIDE_BITS - 1))
                .filter(|further| (0..1 << BESIDE_BITS).contains(further))?;
            Some((whole << BESIDE_BITS) + further)
        };
        Some((Form::Beside(by), all(&code)?))
    };
    let amounts = DIVISORS.into_iter().find_map(divided);
    amounts.or_else(|| DIVISORS.into_iter().find_map(near)).or_else(|| PARTS.into_iter().find_map(divided))
}

/// A bit per value in place of lists, where these have few different ones, and none of them twice.
fn bits(column: &ArrayRef) -> Result<Option<(Form, ArrayRef)>> {
    let lists = column.as_list::<i32>();
    let items = match lists.values().data_type() {
        DataType::Dictionary(_, plain) => cast(lists.values(), plain)?,
        _ => Arc::clone(lists.values()),
    };
    let field = SortField::new(items.data_type().clone());
    if lists.null_count() + items.null_count() > 0 || !RowConverter::supports_fields(std::slice::from_ref(&field)) {
        return Ok(None);
    }
    let rows = RowConverter::new(vec![field])?.convert_columns(std::slice::from_ref(&items))?;
    // Sorted, so that blocks with the same values have the same bits for them.
    let mut known: BTreeMap<&[u8], u32> = BTreeMap::new();
    for row in 0..items.len() {
        known.entry(rows.row(row).data()).or_insert(row as u32);
        if known.len() > MOST_VALUES {
            return Ok(None);
        }
    }
    let bit_of: HashMap<&[u8], usize> = known.keys().enumerate().map(|(bit, value)| (*value, bit)).collect();
    let of_list = |ends: &[i32]| {
        let mut bits = 0u64;
        (ends[0]..ends[1]).for_each(|row| bits |= 1 << bit_of[rows.row(row as usize).data()]);
        (bits.count_ones() as i32 == ends[1] - ends[0]).then_some(bits as i64)
    };
    let Some(bits) = lists.value_offsets().windows(2).map(of_list).collect::<Option<Vec<i64>>>() else {
        return Ok(None);
    };
    let values = take(&items, &known.values().copied().collect::<UInt32Array>(), None)?;
    Ok(Some((Form::Bits(values), Arc::new(Int64Array::from(bits)))))
}

/// The lists that bits stand for.
pub(in crate::features::fusion) fn lists_of_bits(bits: &Int64Array, values: &ArrayRef) -> Result<ListArray> {
    let lengths = bits.values().iter().map(|bits| bits.count_ones() as usize);
    let places = bits.values().iter().flat_map(|bits| ones(*bits as u64)).map(|bit| bit as u32);
    let items = take(values, &places.collect::<UInt32Array>(), None)?;
    let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
    Ok(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), items, None)?)
}

/// The places of the bits that are set.
pub(in crate::features::fusion) fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let next = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(next)
    })
}

/// An array in Arrow's stream format, in hexadecimal.
fn write_array<S: Serializer>(array: &ArrayRef, to: S) -> std::result::Result<S::Ok, S::Error> {
    let write = || {
        let batch = RecordBatch::try_from_iter([("values", Arc::clone(array))])?;
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    to.serialize_str(&hex(write().map_err(S::Error::custom)?))
}

fn read_array<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<ArrayRef, D::Error> {
    let text = String::deserialize(from)?;
    let bytes = from_hex(&text).ok_or_else(|| D::Error::custom("no hexadecimal digits"))?;
    let mut batches = StreamReader::try_new(bytes.as_slice(), None).map_err(D::Error::custom)?;
    let batch = batches.next().ok_or_else(|| D::Error::custom("no values"))?.map_err(D::Error::custom)?;
    Ok(Arc::clone(batch.column(0)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ListBuilder, StringDictionaryBuilder};
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;

    /// What comes back of a column, by way of the words in a file.
    fn back(column: &ArrayRef) -> (Form, Column) {
        let (form, written) = Form::of(Arc::clone(column)).unwrap();
        let read: Form = serde_json::from_str(&serde_json::to_string(&form).unwrap()).unwrap();
        let unpacked = read.unpacked(Some(written), column.len()).unwrap();
        (form, unpacked)
    }

    #[test]
    fn amounts_are_written_as_whole_numbers_where_every_bit_comes_back() {
        let doubles = |values: Vec<Option<f64>>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let cents = doubles(vec![Some(12.34), None, Some(-0.01), Some(0.0), Some(99_999_999.99)]);
        let (form, unpacked) = back(&cents);
        assert!(matches!(form, Form::Divided(100)));
        assert_eq!(&unpacked.array, &cents);
        for other in [-0.0, f64::NAN, f64::INFINITY, 1e300, 1e-9] {
            let other = doubles(vec![Some(1.0), Some(other)]);
            assert!(matches!(Form::of(other).unwrap().0, Form::Same));
        }
    }

    #[test]
    fn sums_of_amounts_are_amounts_and_a_few_doubles_beside_them_and_their_remainders_small_parts_of_1() {
        let amounts: Vec<f64> = (0..200).map(|i| f64::from(i * 7919 % 30_000) / 100.0).collect();
        let sums: Vec<f64> = amounts.chunks(3).map(|some| some.iter().sum()).collect();
        assert!(sums.iter().any(|x| (x * 100.0).round() / 100.0 != *x), "some of them are no amounts");
        let sums: ArrayRef = Arc::new(Float64Array::from(sums));
        let (form, unpacked) = back(&sums);
        assert!(matches!(form, Form::Beside(100)), "{form:?}");
        assert_eq!(&unpacked.array, &sums);
        let remainders: ArrayRef =
            Arc::new(Float64Array::from_iter_values((-50..50).map(|i| f64::from(i) * 2f64.powi(-53))));
        let (form, unpacked) = back(&remainders);
        assert!(matches!(form, Form::Divided(by) if by == 1 << 53), "{form:?}");
        assert_eq!(&unpacked.array, &remainders);
    }

    #[test]
    fn a_column_of_one_value_need_not_be_read() {
        let columns: [ArrayRef; 5] = [
            Arc::new(BinaryArray::from(vec![&b""[..]; 5])),
            Arc::new(Int64Array::from(vec![7; 5])),
            Arc::new(Float64Array::from(vec![f64::NAN; 5])),
            Arc::new(Float64Array::from(vec![-0.0; 5])),
            Arc::new(BooleanArray::from(vec![false; 5])),
        ];
        for column in columns {
            let (form, unpacked) = back(&column);
            assert!(!form.is_read());
            assert_eq!(unpacked.array.to_data(), column.to_data());
            assert_eq!(form.unpacked(None, 2).unwrap().array.to_data(), column.slice(0, 2).to_data());
        }
        for column in [Float64Array::from(vec![0.0, -0.0]), Float64Array::from(vec![None, Some(1.0)])] {
            assert!(Form::of(Arc::new(column)).unwrap().0.is_read());
        }
    }

    proptest! {
        #[test]
        fn any_doubles_come_back(values in prop::collection::vec(prop::option::of(any::<f64>()), 0..20),
            cents in prop::collection::vec(any::<i32>(), 0..20)) {
            let cents: Vec<f64> = cents.into_iter().map(|c| f64::from(c) / 100.0).collect();
            let sums = cents.iter().scan(0.0, |sum, x| { *sum += x; Some(Some(*sum)) }).collect();
            for values in [values, cents.iter().copied().map(Some).collect(), sums] {
                let column = Float64Array::from(values);
                let (_, unpacked) = back(&(Arc::new(column.clone()) as ArrayRef));
                let bits = |array: &Float64Array| array.iter().map(|x| x.map(f64::to_bits)).collect::<Vec<_>>();
                prop_assert_eq!(bits(unpacked.array.as_primitive()), bits(&column));
            }
        }

        #[test]
        fn sets_come_back(sets in prop::collection::vec(prop::collection::btree_set(-40i64..40, 0..9), 0..40)) {
            let lists = lists(sets.iter().map(|set| set.iter().copied().collect()).collect());
            let (form, unpacked) = back(&lists);
            let different = sets.iter().flatten().collect::<std::collections::BTreeSet<_>>().len();
            prop_assert_eq!(matches!(form, Form::Bits(_)), different <= MOST_VALUES);
            if let Some(values) = &unpacked.values {
                let again = lists_of_bits(unpacked.array.as_primitive(), values).unwrap();
                prop_assert_eq!(&(Arc::new(again) as ArrayRef), &lists);
            }
        }
    }

    fn lists(values: Vec<Vec<i64>>) -> ArrayRef {
        let values = values.into_iter().map(|list| Some(list.into_iter().map(Some)));
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values))
    }

    #[test]
    fn a_list_with_a_value_twice_stays_one() {
        assert!(matches!(Form::of(lists(vec![vec![1], vec![2, 2]])).unwrap().0, Form::Same));
    }

    #[test]
    fn texts_are_sorted_whatever_their_numbers_in_a_dictionary_are() {
        let mut builder = ListBuilder::new(StringDictionaryBuilder::<Int32Type>::new());
        for texts in [&["shoes", "books"][..], &[], &["books"]] {
            texts.iter().for_each(|text| builder.values().append_value(text));
            builder.append(true);
        }
        let (_, unpacked) = back(&(Arc::new(builder.finish()) as ArrayRef));
        assert_eq!(unpacked.array.as_primitive::<Int64Type>().values(), &[3, 0, 1]);
        assert_eq!(unpacked.values.unwrap().as_string::<i32>().value(0), "books");
    }
}
