//! Aggregates that may be about right: exact of few values, from a sketch of many, with states and without.

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::states::{Shop, day};

/// What an aggregate says of the first customers over all time.
fn lifetime(matrix: &RecordBatch, column: &str) -> Vec<f64> {
    let column = matrix.column_by_name(&format!("{column}_lifetime")).unwrap();
    let doubles = cast(column, &DataType::Float64).unwrap();
    doubles.as_primitive::<Float64Type>().values().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_values_become_sketches_that_are_the_same_with_states_and_without() {
    const DAYS: u64 = 40;
    const DAILY: i32 = 250;
    let mut shop = Shop::new("UTC", false).await;
    for n in 0..DAYS {
        for i in 0..DAILY {
            shop.order(n, i64::from(i % 24), (0, Some(100 + 2 * i), 0));
        }
        shop.order(n, 12, (1, Some(4_200), n as u8));
        shop.write(day(n)).await;
    }
    for n in DAYS - 3..=DAYS {
        shop.night(n).await.unwrap();
    }
    let (matrix, _) = shop.matrix(shop.as_of(DAYS), true).await;
    let about = |column: &str, within: f64, wanted: f64| {
        let found = lifetime(&matrix, column)[0];
        assert!(
            (found - wanted).abs() <= within * wanted && found != wanted,
            "{column} is {found}, not about {wanted}"
        );
    };
    let orders = f64::from(DAILY) * DAYS as f64;
    about("about_orders", 0.025, orders);
    about("about_middle", 0.011, 1.0 + f64::from(DAILY) / 100.0);
    about("about_most", 0.011, 0.9 * (orders + DAYS as f64));
    // Whoever has few values has the exact answer.
    assert_eq!(["about_orders", "about_channels", "about_middle"].map(|c| lifetime(&matrix, c)[1]), [40.0, 3.0, 42.0]);
    // Ten thousand numbers of orders are a sketch of some kilobytes.
    let sizes = shop.blocks().into_iter().map(|path| path.metadata().unwrap().len());
    assert!(sizes.max().unwrap() < 64 << 10);
}
