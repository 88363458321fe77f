// Package metadata is the store in which the cache keeps its records: a bbolt database in the
// format of BuildKit's metadata_v2.db, which either program can open after the other.
//
// # Schema
//
//	_main                                 one nested bucket per record
//	└── <record ID>
//	    └── <key>            -> {"value":<JSON>,"index":"<index>"}   both members optional;
//	                            an empty string stands for a cleared value
//	_index                                flat, values are empty
//	└── <index>::<record ID>
//	_external                             one nested bucket per record
//	└── <record ID>
//	    └── <key>            -> bytes of the caller, never loaded with the record
//	_layercache                           this library's own; BuildKit neither reads nor drops it
//	└── storeID              -> random ID of this database
//
// Buckets are created by the first write that needs them. An index entry is found from its
// record through the index member of the value that asked for it, so the two are always
// written in the same transaction.
//
// # Writing
//
// A transition of a record is one call of [Store.Write] and one transaction. Callers that write
// at the same time share a transaction, a lone caller waits for nobody. A transaction that turns
// out to change nothing is rolled back, which costs no sync. Values whose loss a crash may cause
// go through [Store.Later].
//
// # Reading
//
// Nothing is cached: a [StorageItem] reads the database whenever it is asked, so it shows what
// was committed last, whoever wrote it, and a transaction that failed leaves no trace in it.
// What the items of one record do share is its fate: when the record is removed, a write through
// any of them is refused with [ErrRecordRemoved] rather than bringing a part of it back.
//
// # Handles
//
// No bolt handle, transaction or bucket outlives a call, and no transaction is opened inside
// another, because a [DB] given to [NewStoreWithDB] may swap its handle between two calls.
// Callbacks run inside a transaction: they must not call the store again.
package metadata
