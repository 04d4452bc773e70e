"""Makes `committed/spark`: the shop as Spark writes it. Wants `pyspark==4.3.0` and a Java machine; run it by hand, commit what it leaves.

Old times of 96 bits in one table, a partition a month, Spark's own names, `_SUCCESS` and its checksums.
"""

import decimal
import pathlib
import shutil

import shop
from pyspark.sql import SparkSession, functions as f, types as t

OUT = pathlib.Path(__file__).parent / "committed/spark"


def main():
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    shutil.rmtree(OUT, ignore_errors=True)
    fields = lambda **kinds: t.StructType([t.StructField(name, kind) for name, kind in kinds.items()])
    customers = fields(customer_id=t.LongType(), signed_up_at=t.TimestampType(), country=t.StringType())
    rows = [tuple(row.values()) for row in shop.customers()]
    spark.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
    spark.createDataFrame(rows, customers).coalesce(1).write.parquet(f"{OUT}/customers")
    orders = fields(
        order_id=t.LongType(),
        customer_id=t.LongType(),
        ordered_at=t.TimestampType(),
        amount=t.DecimalType(18, 2),
        items=t.IntegerType(),
        coupon=t.StringType(),
        refunded=t.BooleanType(),
        note=t.StringType(),
    )
    rows = [tuple({**row, "amount": decimal.Decimal(row["amount"])}.values()) for row in shop.orders()]
    frame = spark.createDataFrame(rows, orders).withColumn("dt", f.trunc("ordered_at", "month"))
    frame.repartition(2, "dt").write.partitionBy("dt").option("compression", "zstd").parquet(f"{OUT}/orders")
    events = fields(event_id=t.StringType(), customer_id=t.LongType(), at=t.TimestampType(), kind=t.StringType(), seconds=t.DoubleType())
    spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MILLIS")
    rows = [tuple({**row, "event_id": str(row["event_id"])}.values()) for row in shop.events()]
    spark.createDataFrame(rows, events).repartition(2).write.parquet(f"{OUT}/events")
    spark.stop()


if __name__ == "__main__":
    main()
