//! TPC-H tables, made with the distributions that its queries select by; not dbgen's rows.

use datafusion::arrow::{
    array::{ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use datafusion::parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use std::{fs, path::Path, sync::Arc};

/// Tables, and the columns that no policy hides of those that have hidden ones.
pub(crate) const TABLES: [&str; 8] =
    ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// Days since 1970 of 1992-01-01, the first day of an order.
const FIRST_DAY: i32 = 8_035;

struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn words(&mut self, n: usize) -> String {
        (0..n).map(|_| self.pick(WORDS)).collect::<Vec<_>>().join(" ")
    }

    fn phone(&mut self, nation: usize) -> String {
        format!("{}-{:03}-{:03}-{:04}", 10 + nation, self.below(1_000), self.below(1_000), self.below(10_000))
    }
}

const WORDS: &[&str] = &[
    "furiously",
    "special",
    "requests",
    "sleep",
    "quickly",
    "final",
    "deposits",
    "above",
    "the",
    "ironic",
    "packages",
    "Customer",
    "Complaints",
    "bold",
    "accounts",
    "across",
    "even",
    "theodolites",
    "pending",
    "foxes",
    "carefully",
];
const COLOURS: &[&str] = &[
    "almond", "azure", "blue", "brown", "cream", "cyan", "drab", "forest", "gold", "green", "grey", "ivory", "khaki",
    "lime", "navy", "olive", "pink", "plum", "red", "rose", "salmon", "sky", "tan", "white", "yellow",
];
const NATIONS: &[(&str, i32)] = &[
    ("ALGERIA", 0),
    ("ARGENTINA", 1),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("ETHIOPIA", 0),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("INDONESIA", 2),
    ("IRAN", 4),
    ("IRAQ", 4),
    ("JAPAN", 2),
    ("JORDAN", 4),
    ("KENYA", 0),
    ("MOROCCO", 0),
    ("MOZAMBIQUE", 0),
    ("PERU", 1),
    ("CHINA", 2),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("VIETNAM", 2),
    ("RUSSIA", 3),
    ("UNITED KINGDOM", 3),
    ("UNITED STATES", 1),
];
const SEGMENTS: &[&str] = &["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"];
const PRIORITIES: &[&str] = &["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const MODES: &[&str] = &["AIR", "AIR REG", "FOB", "MAIL", "RAIL", "SHIP", "TRUCK"];
const INSTRUCTIONS: &[&str] = &["COLLECT COD", "DELIVER IN PERSON", "NONE", "TAKE BACK RETURN"];
const SIZES: &[&str] = &["SM", "MED", "LG", "JUMBO", "WRAP"];
const BOXES: &[&str] = &["CASE", "BOX", "BAG", "JAR", "PACK", "PKG", "CAN", "DRUM"];
const KINDS: &[&str] = &["STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO"];
const FINISHES: &[&str] = &["ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED"];
const METALS: &[&str] = &["TIN", "NICKEL", "BRASS", "STEEL", "COPPER"];

/// A table that is being made.
#[derive(Default)]
struct Columns(Vec<(Field, ArrayRef)>);

impl Columns {
    fn put(&mut self, name: &str, array: ArrayRef) {
        self.0.push((Field::new(name, array.data_type().clone(), false), array));
    }

    fn longs(&mut self, name: &str, n: usize, f: impl FnMut(usize) -> i64) {
        self.put(name, Arc::new(Int64Array::from_iter_values((0..n).map(f))));
    }

    fn ints(&mut self, name: &str, n: usize, f: impl FnMut(usize) -> i32) {
        self.put(name, Arc::new(Int32Array::from_iter_values((0..n).map(f))));
    }

    fn days(&mut self, name: &str, n: usize, f: impl FnMut(usize) -> i32) {
        self.put(name, Arc::new(Date32Array::from_iter_values((0..n).map(f))));
    }

    fn texts<S: AsRef<str>>(&mut self, name: &str, n: usize, f: impl FnMut(usize) -> S) {
        self.put(name, Arc::new(StringArray::from_iter_values((0..n).map(f))));
    }

    /// Amounts in hundredths.
    fn amounts(&mut self, name: &str, n: usize, f: impl FnMut(usize) -> i128) {
        let amounts = Decimal128Array::from_iter_values((0..n).map(f)).with_precision_and_scale(15, 2).unwrap();
        self.put(name, Arc::new(amounts));
    }

    fn batch(self) -> RecordBatch {
        let (fields, arrays): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
    }
}

/// Writes a Parquet file.
pub(crate) fn write(path: &Path, batch: &RecordBatch) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(131_072)).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Writes all tables, one file each, as many rows as the scale says: 1 is six million lines of orders.
pub(crate) fn make(folder: &Path, scale: f64) {
    for (table, batch) in TABLES.iter().zip(tables(scale)) {
        write(&folder.join(format!("{table}.parquet")), &batch);
    }
}

/// In the order of `TABLES`.
fn tables(scale: f64) -> [RecordBatch; 8] {
    let count = |n: f64| ((n * scale) as usize).max(50);
    let (customers, orders, parts, suppliers) = (count(150e3), count(1.5e6), count(200e3), count(10e3));
    let d = &mut Draw(22);

    let mut customer = Columns::default();
    let nations: Vec<usize> = (0..customers).map(|_| d.below(25)).collect();
    customer.longs("c_custkey", customers, |i| i as i64 + 1);
    customer.texts("c_name", customers, |i| format!("Customer#{:09}", i + 1));
    customer.texts("c_address", customers, |_| d.words(3));
    customer.ints("c_nationkey", customers, |i| nations[i] as i32);
    customer.texts("c_phone", customers, |i| d.phone(nations[i]));
    customer.amounts("c_acctbal", customers, |_| d.below(1_100_000) as i128 - 100_000);
    customer.texts("c_mktsegment", customers, |_| d.pick(SEGMENTS));
    customer.texts("c_comment", customers, |_| d.words(10));

    let ordered: Vec<i32> = (0..orders).map(|_| FIRST_DAY + d.below(2_405) as i32).collect();
    let lines: Vec<usize> = (0..orders).flat_map(|o| std::iter::repeat_n(o, 1 + d.below(7))).collect();
    let n = lines.len();
    let supplier_of = |part: usize, i: usize| (part + i * (suppliers / 4 + part / suppliers)) % suppliers + 1;
    let of_part: Vec<usize> = (0..n).map(|_| d.below(parts)).collect();
    let quantity: Vec<i128> = (0..n).map(|_| 1 + d.below(50) as i128).collect();
    let shipped: Vec<i32> = lines.iter().map(|o| ordered[*o] + 1 + d.below(121) as i32).collect();
    let received: Vec<i32> = shipped.iter().map(|s| s + 1 + d.below(30) as i32).collect();
    // Orders up to this day have been delivered.
    let today = 9_298;
    let mut lineitem = Columns::default();
    lineitem.longs("l_orderkey", n, |i| lines[i] as i64 + 1);
    lineitem.longs("l_partkey", n, |i| of_part[i] as i64 + 1);
    lineitem.longs("l_suppkey", n, |i| supplier_of(of_part[i], d.below(4)) as i64);
    lineitem.longs("l_linenumber", n, |i| (i % 7) as i64 + 1);
    lineitem.amounts("l_quantity", n, |i| quantity[i] * 100);
    lineitem.amounts("l_extendedprice", n, |i| quantity[i] * (90_000 + (of_part[i] % 20_000) as i128));
    lineitem.amounts("l_discount", n, |_| d.below(11) as i128);
    lineitem.amounts("l_tax", n, |_| d.below(9) as i128);
    lineitem.texts("l_returnflag", n, |i| if received[i] > today { "N" } else { d.pick(&["R", "A"]) });
    lineitem.texts("l_linestatus", n, |i| if shipped[i] > today { "O" } else { "F" });
    lineitem.days("l_shipdate", n, |i| shipped[i]);
    lineitem.days("l_commitdate", n, |i| ordered[lines[i]] + 30 + d.below(61) as i32);
    lineitem.days("l_receiptdate", n, |i| received[i]);
    lineitem.texts("l_shipinstruct", n, |_| d.pick(INSTRUCTIONS));
    lineitem.texts("l_shipmode", n, |_| d.pick(MODES));
    lineitem.texts("l_comment", n, |_| d.words(4));

    let mut nation = Columns::default();
    nation.ints("n_nationkey", 25, |i| i as i32);
    nation.texts("n_name", 25, |i| NATIONS[i].0);
    nation.ints("n_regionkey", 25, |i| NATIONS[i].1);
    nation.texts("n_comment", 25, |_| d.words(8));

    let mut order = Columns::default();
    order.longs("o_orderkey", orders, |i| i as i64 + 1);
    // A third of the customers never orders.
    order.longs("o_custkey", orders, |_| (d.below(customers) / 3 * 3 + d.below(2)) as i64 + 1);
    order.texts("o_orderstatus", orders, |i| if ordered[i] + 60 < today { "F" } else { "O" });
    order.amounts("o_totalprice", orders, |_| 100_000 + d.below(45_000_000) as i128);
    order.days("o_orderdate", orders, |i| ordered[i]);
    order.texts("o_orderpriority", orders, |_| d.pick(PRIORITIES));
    order.texts("o_clerk", orders, |_| format!("Clerk#{:09}", d.below(1_000)));
    order.ints("o_shippriority", orders, |_| 0);
    order.texts("o_comment", orders, |_| d.words(7));

    let mut part = Columns::default();
    part.longs("p_partkey", parts, |i| i as i64 + 1);
    part.texts("p_name", parts, |_| (0..5).map(|_| d.pick(COLOURS)).collect::<Vec<_>>().join(" "));
    part.texts("p_mfgr", parts, |i| format!("Manufacturer#{}", i % 5 + 1));
    part.texts("p_brand", parts, |i| format!("Brand#{}{}", i % 5 + 1, d.below(5) + 1));
    part.texts("p_type", parts, |_| format!("{} {} {}", d.pick(KINDS), d.pick(FINISHES), d.pick(METALS)));
    part.ints("p_size", parts, |_| 1 + d.below(50) as i32);
    part.texts("p_container", parts, |_| format!("{} {}", d.pick(SIZES), d.pick(BOXES)));
    part.amounts("p_retailprice", parts, |i| 90_000 + (i % 20_000) as i128);
    part.texts("p_comment", parts, |_| d.words(3));

    let mut partsupp = Columns::default();
    partsupp.longs("ps_partkey", parts * 4, |i| (i / 4) as i64 + 1);
    partsupp.longs("ps_suppkey", parts * 4, |i| supplier_of(i / 4, i % 4) as i64);
    partsupp.longs("ps_availqty", parts * 4, |_| 1 + d.below(9_999) as i64);
    partsupp.amounts("ps_supplycost", parts * 4, |_| 100 + d.below(99_900) as i128);
    partsupp.texts("ps_comment", parts * 4, |_| d.words(15));

    let mut region = Columns::default();
    region.ints("r_regionkey", 5, |i| i as i32);
    region.texts("r_name", 5, |i| ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"][i]);
    region.texts("r_comment", 5, |_| d.words(8));

    let mut supplier = Columns::default();
    let nations: Vec<usize> = (0..suppliers).map(|_| d.below(25)).collect();
    supplier.longs("s_suppkey", suppliers, |i| i as i64 + 1);
    supplier.texts("s_name", suppliers, |i| format!("Supplier#{:09}", i + 1));
    supplier.texts("s_address", suppliers, |_| d.words(3));
    supplier.ints("s_nationkey", suppliers, |i| nations[i] as i32);
    supplier.texts("s_phone", suppliers, |i| d.phone(nations[i]));
    supplier.amounts("s_acctbal", suppliers, |_| d.below(1_100_000) as i128 - 100_000);
    supplier.texts("s_comment", suppliers, |_| d.words(10));

    [customer, lineitem, nation, order, part, partsupp, region, supplier].map(Columns::batch)
}

/// Rows that are looked up by `id`, in its order; one in four is of the region `eu`.
pub(crate) fn events(rows: usize) -> RecordBatch {
    let d = &mut Draw(5);
    let mut events = Columns::default();
    events.longs("id", rows, |i| i as i64);
    events.texts("region", rows, |_| d.pick(&["eu", "us", "apac", "latam"]));
    events.longs("amount", rows, |_| d.below(1_000_000) as i64);
    events.texts("note", rows, |_| d.words(2));
    events.batch()
}

/// The type of a column, as a bundle asks for it.
pub(crate) fn columns(schema: &Schema) -> Vec<(String, DataType)> {
    schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
}
