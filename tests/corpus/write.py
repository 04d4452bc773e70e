"""Writes the shop as one tool would: `write.py FLAVOUR FOLDER` leaves a lake, a job, its SQL and the truth in FOLDER.

`write.py --list` names the flavours. Those of `spark` are committed (`make_committed.py` made them), for they want a Java machine.
"""

import decimal
import gzip
import json
import pathlib
import shutil
import sys
import uuid

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

import shop

HERE = pathlib.Path(__file__).parent
MONEY = decimal.Decimal("0.25")


def table(rows, types):
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()})


def customers(id=pa.int64(), at=pa.timestamp("us", "UTC"), text=pa.string()):
    return table(shop.customers(), {"customer_id": id, "signed_up_at": at, "country": text})


def orders(id=pa.int64(), at=pa.timestamp("us", "UTC"), money=pa.float64(), items=pa.int32(), text=pa.string(), rows=None):
    rows = shop.orders() if rows is None else rows
    if pa.types.is_decimal(money):
        rows = [{**row, "amount": decimal.Decimal(row["amount"]).quantize(MONEY)} for row in rows]
    kinds = {"order_id": id, "customer_id": id, "ordered_at": at, "amount": money, "items": items, "coupon": text}
    return table(rows, {**kinds, "refunded": pa.bool_(), "note": text})


def events(id=pa.int64(), at=pa.timestamp("ms", "UTC"), seconds=pa.float64(), text=pa.string(), event_id=str):
    rows = [{**row, "event_id": event_id(row["event_id"])} for row in shop.events()]
    first = pa.binary(16) if event_id is not str else text
    return table(rows, {"event_id": first, "customer_id": id, "at": at, "kind": text, "seconds": seconds})


def put(data, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, **options)


def by_day(rows):
    days = {}
    for row in rows:
        days.setdefault(row["ordered_at"].date(), []).append(row)
    return days


CUSTOMERS = {"customer_id": "int64", "signed_up_at": "timestamp", "country": "utf8"}
ORDERS = {
    "order_id": "int64",
    "customer_id": "int64",
    "ordered_at": "timestamp",
    "amount": "float64",
    "items": "int64",
    "coupon": "utf8",
    "refunded": "bool",
    "note": "utf8",
}
EVENTS = {"event_id": "utf8", "customer_id": "int64", "at": "timestamp", "kind": "utf8", "seconds": "float64"}


def declared(**more):
    """The three tables of a job; `more` lays keys over those of a table."""
    tables = {
        "customers": {"path": "customers/", "event_time": "signed_up_at", "columns": dict(CUSTOMERS)},
        "orders": {"path": "orders/", "event_time": "ordered_at", "columns": dict(ORDERS)},
        "events": {"path": "events/", "event_time": "at", "columns": dict(EVENTS)},
    }
    for name, keys in more.items():
        keys = dict(keys)
        tables[name]["columns"].update(keys.pop("columns", {}))
        tables[name].update(keys)
    return tables


# Each flavour writes below `lake` and gives the job's tables.


def pyarrow_plain(lake):
    """One file a table; the reference."""
    put(customers(), lake / "customers/a.parquet")
    put(orders(), lake / "orders/a.parquet")
    put(events(), lake / "events/a.parquet")
    return declared()


def pyarrow_pages(lake):
    """Second data pages, zstd, small pages and row groups, byte stream split, delta encodings, page checksums."""
    delta = {"order_id": "DELTA_BINARY_PACKED", "note": "DELTA_BYTE_ARRAY", "coupon": "DELTA_LENGTH_BYTE_ARRAY", "amount": "BYTE_STREAM_SPLIT"}
    put(customers(), lake / "customers/a.parquet", compression="zstd", data_page_version="2.0")
    put(
        orders(),
        lake / "orders/a.parquet",
        compression="zstd",
        data_page_version="2.0",
        data_page_size=512,
        row_group_size=100,
        use_dictionary=False,
        column_encoding=delta,
        write_page_checksum=True,
        write_page_index=True,
    )
    put(events(), lake / "events/a.parquet", compression="lz4", row_group_size=333, write_page_checksum=True, store_schema=False)
    return declared()


def pyarrow_large(lake):
    """Large and dictionary types, unsigned and narrow numbers, gzip, brotli."""
    money = customers(id=pa.uint32(), at=pa.timestamp("ns", "UTC"), text=pa.large_string())
    put(money.set_column(2, "country", money["country"].dictionary_encode()), lake / "customers/a.parquet", compression="gzip")
    put(orders(id=pa.uint64(), items=pa.uint32(), text=pa.large_string()), lake / "orders/a.parquet", compression="brotli")
    put(events(id=pa.int16(), seconds=pa.float32(), text=pa.string_view()), lake / "events/a.parquet", compression="none")
    return declared()


def pyarrow_hive(lake):
    """Folders of days and countries, one of which is NULL and one of which is written with escapes."""
    shops = customers()
    land = ["ÅL/FI" if row["country"] == "NO" else row["country"] for row in shop.customers()]
    shops = shops.set_column(2, "country", pa.array(land))
    for value in set(land):
        mask = pc.equal(shops["country"], value) if value is not None else pc.is_null(shops["country"])
        name = {"ÅL/FI": "%C3%85L%2FFI", None: "__HIVE_DEFAULT_PARTITION__"}.get(value, value)
        put(shops.filter(mask).drop_columns("country"), lake / f"customers/country={name}/part-0.parquet")
    for day, rows in by_day(shop.orders()).items():
        folder = lake / f"orders/dt={day}"
        put(orders(rows=rows), folder / "part-0.parquet")
    (lake / "orders/dt=2026-06-05/_SUCCESS").touch()
    (lake / "orders/dt=2026-06-05/.part-0.parquet.crc").write_bytes(b"crc\0\0\0\2\0")
    put(orders(rows=[]), lake / "orders/dt=2026-03-01/part-0.parquet")  # A day without orders is a file without rows.
    put(events(), lake / "events/a.parquet")
    customer_columns = {name: kind for name, kind in CUSTOMERS.items() if name != "country"}
    tables = declared(orders={"partition_by": {"dt": "date"}})
    tables["customers"] = {
        "path": "customers/",
        "event_time": "signed_up_at",
        "partition_by": {"country": "utf8"},
        "columns": customer_columns,
    }
    return tables


def pandas_days(lake):
    """A file a day: integers become floats on a day with a gap, a column without values has no type, times have no zone."""
    frame(customers()).to_parquet(lake_file(lake, "customers/customers.parquet"))
    for day, rows in by_day(shop.orders()).items():
        day_frame = frame(orders(rows=rows))
        if day < shop.COUPONS_SINCE:
            day_frame = day_frame.drop(columns="coupon")
        day_frame.to_parquet(lake_file(lake, f"orders/{day}.parquet"))
    frame(events()).to_parquet(lake_file(lake, "events/events.parquet"), engine="pyarrow", compression="gzip")
    return declared(orders={"columns": {"coupon": {"type": "utf8", "optional": True}}})


def frame(data):
    """As pandas holds rows that came from Python objects: naive times, floats where an integer is missing."""
    import pandas

    columns = {}
    for name in data.column_names:
        values = data[name].to_pylist()
        if pa.types.is_timestamp(data[name].type):
            columns[name] = pandas.to_datetime(pandas.Series(values)).dt.tz_localize(None)
        else:
            kind = object if any(isinstance(value, str) for value in values) or all(value is None for value in values) else None
            columns[name] = pandas.Series(values, dtype=kind)
    return pandas.DataFrame(columns)


def lake_file(lake, path):
    path = lake / path
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def polars_files(lake):
    """Polars: large texts, narrow integers, several row groups, a file named without thought."""
    import polars

    polars.from_arrow(customers(id=pa.int32())).write_parquet(lake_file(lake, "customers/customers.parquet"))
    rows = polars.from_arrow(orders(id=pa.int32(), items=pa.int32()))
    rows[:300].write_parquet(lake_file(lake, "orders/2026 May (1).parquet"), compression="zstd", row_group_size=64)
    rows[300:].write_parquet(lake_file(lake, "orders/2026 June.PARQUET"), compression="lz4", statistics="full")
    polars.from_arrow(events()).write_parquet(lake_file(lake, "events/events.parquet"), compression="uncompressed")
    return declared()


def duckdb_partitions(lake):
    """DuckDB's partitioned COPY: decimals, UUIDs, times with a zone."""
    import duckdb

    at = duckdb.connect()
    at.execute("SET timezone = 'UTC'")
    c, o, e = customers(), orders(money=pa.decimal128(18, 2)), events()
    for name, data in {"c": c, "o": o, "e": e}.items():
        at.register(name, data)
    for folder in ["customers", "events"]:
        (lake / folder).mkdir(parents=True)
    at.execute(f"COPY c TO '{lake}/customers/data.parquet'")
    at.execute(f"COPY (SELECT *, ordered_at::DATE AS dt FROM o) TO '{lake}/orders' (FORMAT parquet, PARTITION_BY (dt), COMPRESSION zstd)")
    at.execute(f"COPY (SELECT * REPLACE (event_id::UUID AS event_id) FROM e) TO '{lake}/events/data.parquet' (PARQUET_VERSION v2)")
    return declared(
        orders={"partition_by": {"dt": "date"}, "columns": {"amount": "decimal(18, 2)"}},
        events={"columns": {"event_id": "uuid"}},
    )


def snowflake(lake):
    """Upper-case names, NUMBER(38, 0), times without a zone in milliseconds and microseconds, names of COPY INTO."""
    upper = lambda data: data.rename_columns([name.upper() for name in data.column_names])
    number = pa.decimal128(38, 0)
    put(upper(customers(id=number, at=pa.timestamp("us"))), lake / "customers/data_0_0_0.snappy.parquet")
    put(upper(orders(id=number, at=pa.timestamp("us"), money=pa.decimal128(18, 2), items=number)), lake / "orders/data_0_1_0.snappy.parquet")
    put(upper(events(id=number, at=pa.timestamp("ms"))), lake / "events/data_0_2_0.snappy.parquet")
    tables = declared(orders={"columns": {"amount": "decimal(18, 2)"}})
    for declaration in tables.values():
        kinds = declaration["columns"]
        declaration["columns"] = {name: {"type": kind, "from": name.upper()} for name, kind in kinds.items()}
    return tables


def bigquery(lake):
    """NUMERIC as decimal(38, 9), BIGNUMERIC as decimal(76, 38), a record, numbered files, gzip."""
    numeric, big = pa.decimal128(38, 9), pa.decimal256(76, 38)
    rows = [{**row, "amount": decimal.Decimal(row["amount"])} for row in shop.orders()]
    money = pa.array([row["amount"] for row in rows], numeric)
    data = orders(items=pa.int64())
    data = data.set_column(3, "amount", money)
    record = pa.StructArray.from_arrays([data["coupon"].combine_chunks(), data["note"].combine_chunks()], ["coupon", "note"])
    data = data.drop_columns(["coupon", "note"]).append_column("details", record)
    put(customers(), lake / "customers/customers-000000000000.parquet", compression="gzip")
    put(data.slice(0, 200), lake / "orders/orders-000000000000.parquet", compression="gzip")
    put(data.slice(200), lake / "orders/orders-000000000001.parquet", compression="gzip")
    seconds = pa.array([None if row["seconds"] is None else decimal.Decimal(row["seconds"]) for row in shop.events()], big)
    # A uuid is text in BigQuery.
    put(events(at=pa.timestamp("us", "UTC")).set_column(4, "seconds", seconds), lake / "events/events-000000000000.parquet", compression="gzip")
    details = {name: {"type": "utf8", "from": f"details.{name}"} for name in ["coupon", "note"]}
    return declared(
        orders={"columns": {"amount": "decimal(38, 9)", **details}},
        events={"columns": {"seconds": "decimal(76, 38)"}},
    )


def athena(lake):
    """Athena's UNLOAD and Trino's CTAS: files without an ending, times of 96 bits; Redshift's beside them with `.parq`."""
    names = iter(f"20260701_020{n}51_00037_abcde_{uuid.UUID(int=n)}" for n in range(9))
    old = {"use_deprecated_int96_timestamps": True, "compression": "gzip", "version": "1.0"}
    put(customers(), lake / "customers" / next(names), **old)
    put(orders().slice(0, 250), lake / "orders" / next(names), **old)
    put(orders().slice(250, 150), lake / "orders" / next(names), **old)
    put(orders().slice(400), lake / "orders/0000_part_00.parq", **old)
    put(events(at=pa.timestamp("us", "UTC")), lake / "events" / next(names), **old)
    (lake / "orders/_SUCCESS").touch()
    return declared()


def delta(lake):
    """delta-rs: orders by day, some of them wrong at first and corrected, compacted files, a checkpoint."""
    from deltalake import DeltaTable, write_deltalake

    write_deltalake(lake / "customers", customers())
    wrong = orders()
    doubled = pc.multiply(wrong["amount"], 2.0)
    at_fault = pc.equal(pc.bit_wise_and(wrong["order_id"], 7), 3)
    wrong = wrong.set_column(3, "amount", pc.if_else(at_fault, doubled, wrong["amount"]))
    wrong = wrong.append_column("dt", pc.cast(wrong["ordered_at"], pa.date32()))
    write_deltalake(lake / "orders", wrong.slice(0, 300), partition_by=["dt"])
    write_deltalake(lake / "orders", wrong.slice(300), mode="append")
    DeltaTable(lake / "orders").update(predicate="order_id % 8 = 3", updates={"amount": "amount / 2.0"})
    DeltaTable(lake / "orders").optimize.compact()
    DeltaTable(lake / "orders").create_checkpoint()
    write_deltalake(lake / "orders", wrong.slice(0, 1).set_column(0, "order_id", pa.array([999_999])), mode="append")
    DeltaTable(lake / "orders").delete("order_id = 999999")
    write_deltalake(lake / "events", events(at=pa.timestamp("us", "UTC")))
    return declared()


def csv_pyarrow(lake):
    """Comma, quotes, ISO times with an offset; one file gzip, one zstd."""
    for name, data in {"customers": customers(), "orders": orders(), "events": events()}.items():
        path = lake_file(lake, f"{name}/a.csv")
        pyarrow.csv.write_csv(data, path)
    body = (lake / "events/a.csv").read_bytes()
    (lake / "events/a.csv").unlink()
    (lake / "events/a.csv.gz").write_bytes(gzip.compress(body))
    customer_body = (lake / "customers/a.csv").read_bytes()
    (lake / "customers/a.csv").unlink()
    (lake / "customers/a.csv.zst").write_bytes(pa.compress(customer_body, codec="zstd", asbytes=True))
    csv = {"format": "csv"}
    return declared(customers=csv, orders=csv, events=csv)


def csv_pandas(lake):
    """pandas: ids as 12345.0 beside a gap, NA for what is missing, naive times."""
    for name, data in {"customers": customers(), "orders": orders(), "events": events()}.items():
        frame(data).to_csv(lake_file(lake, f"{name}/a.csv"), index=False, na_rep="n/a")
    csv = {"format": "csv", "null_values": ["n/a", ""]}
    return declared(customers=csv, orders=csv, events=csv)


def csv_excel(lake):
    """A European Excel: semicolons, decimal commas, dates of its own, a Windows line end."""
    import csv

    stamp = lambda at: None if at is None else at.strftime("%d.%m.%Y %H:%M:%S.%f")
    for name, data in {"customers": customers(), "orders": orders(), "events": events()}.items():
        with open(lake_file(lake, f"{name}/Export.csv"), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
            writer.writerow(data.column_names)
            for row in data.to_pylist():
                cells = (
                    stamp(value) if hasattr(value, "strftime")
                    else str(value).replace(".", ",") if isinstance(value, float)
                    else {True: "true", False: "false"}[value] if isinstance(value, bool)
                    else value
                    for value in row.values()
                )
                writer.writerow(cells)
    excel = {"format": "csv", "delimiter": ";", "decimal": ",", "timestamp_format": "%d.%m.%Y %H:%M:%S%.f"}
    return declared(customers=excel, orders=excel, events=excel)


def spark(lake):
    """Spark itself wrote these files: see make_committed.py."""
    shutil.copytree(HERE / "committed/spark", lake, dirs_exist_ok=True)
    return declared(
        orders={"partition_by": {"dt": "date"}, "columns": {"amount": "decimal(18, 2)"}},
    )


FLAVOURS = {
    writer.__name__: writer
    for writer in [
        pyarrow_plain,
        pyarrow_pages,
        pyarrow_large,
        pyarrow_hive,
        pandas_days,
        polars_files,
        duckdb_partitions,
        snowflake,
        bigquery,
        athena,
        delta,
        csv_pyarrow,
        csv_pandas,
        csv_excel,
        spark,
    ]
}


def write(flavour, folder):
    # CSV knows no empty text: it is a NULL there, and so it is true of the shop that was written.
    if flavour.startswith("csv"):
        everything = shop.orders()
        blank = lambda row: {**row, **{name: row[name] or None for name in ["coupon", "note"]}}
        shop.orders = lambda: [blank(row) for row in everything]
    tables = FLAVOURS[flavour](folder / "lake")
    job = {
        "version": 1,
        "name": "corpus",
        "lake": "file://./lake",
        "entity": {"table": "customers", "key": "customer_id", "since": "signed_up_at"},
        "tables": tables,
        "features": ["sql/features/*.sql"],
    }
    (folder / "job.yaml").write_text(json.dumps(job, indent=1))  # JSON is YAML.
    for name, sql in shop.FEATURES.items():
        path = folder / "sql/features" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sql)
    truth = shop.truth()
    if flavour == "pyarrow_hive":
        truth = {key: {**row, "country": "ÅL/FI" if row["country"] == "NO" else row["country"]} for key, row in truth.items()}
    (folder / "truth.json").write_text(json.dumps(truth))


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FLAVOURS))
    else:
        write(sys.argv[1], pathlib.Path(sys.argv[2]))
