// Package decompress turns a layer blob into the archive inside of it, ahead of whoever reads that.
//
// What a blob is compressed with is told by its first bytes and never by its media type, which may lie.
// Decoding happens in this process, in one goroutine per stream, which the stream's Close waits for.
package decompress
