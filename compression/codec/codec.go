// Package codec holds the compressions that the blobs of layers may have: how to write and read each, how to tell what a
// blob has, and how to turn a blob of one into a blob of another with the same content.
//
// What the writers of this package write depends on nothing but the data and the level: not on the sizes of the writes, nor on
// how many processors there are.
package codec

import (
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/layertype"
)

// The compressions (spec COMP-1). A level means what it means to the usual tools: for gzip and estargz 0 (stored) to 9, or -1 for
// the default, for zstd 1 to 22, of which several come to the same. Uncompressed has none.
var (
	// Uncompressed is the plain archive.
	Uncompressed compression.Type = uncompressedType{}
	// Gzip is what every registry and engine reads, and the default.
	Gzip compression.Type = gzipType{}
	// EStargz is gzip with an index at its end, by which files can be fetched one at a time. Whatever reads gzip
	// reads it; the index comes after the end of the archive, so that few who unpack it see one more file, though it counts for the diff ID.
	// What this package reads is the archive without.
	EStargz compression.Type = estargzType{}
	// Zstd is faster and smaller than gzip. Engines before about 2021 do not read it.
	Zstd compression.Type = zstdType{}
)

// Default is what a blob is made with if nobody asks for anything else.
var Default = Gzip

// Parse returns the compression that users call name. An unknown one is errdefs' "invalid argument".
func Parse(name string) (compression.Type, error) {
	for _, t := range []compression.Type{Uncompressed, Gzip, EStargz, Zstd} {
		if t.String() == name {
			return t, nil
		}
	}
	return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "compression %q is none of uncompressed, gzip, estargz and zstd", name)
}

// FromMediaType returns the compression that a layer's media type names, which is never EStargz: that has gzip's. A type that is
// none of a layer is errdefs' "invalid argument".
func FromMediaType(mediaType string) (compression.Type, error) {
	switch layertype.CompressionOf(mediaType) {
	case layertype.None:
		return Uncompressed, nil
	case layertype.Gzip:
		return Gzip, nil
	case layertype.Zstd:
		return Zstd, nil
	case layertype.Unknown:
	}
	return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "media type %q is none of a layer", mediaType)
}

// The attributes of an export that choose the form of its blobs (spec COMP-6).
const (
	attrType  = "compression"
	attrForce = "force-compression"
	attrLevel = "compression-level"
)

// ParseAttributes reads the wish for a form from an exporter's attributes: "compression" names the type, Default if absent,
// "compression-level" is a number, and "force-compression" a truth value, true if empty. Other attributes do not
// matter. A value that cannot be understood, or a level that the type does not have, is errdefs' "invalid argument".
func ParseAttributes(attrs map[string]string) (compression.Config, error) {
	cfg := compression.Config{Type: Default}
	if name, ok := attrs[attrType]; ok {
		t, err := Parse(name)
		if err != nil {
			return compression.Config{}, err
		}
		cfg.Type = t
	}
	if text, ok := attrs[attrForce]; ok {
		force := text == ""
		if !force {
			var err error
			if force, err = strconv.ParseBool(text); err != nil {
				return compression.Config{}, errors.Wrapf(errdefs.ErrInvalidArgument, "attribute %s is %q, not true or false", attrForce, text)
			}
		}
		cfg = cfg.SetForce(force)
	}
	if text, ok := attrs[attrLevel]; ok {
		level, err := strconv.Atoi(text)
		if err != nil {
			return compression.Config{}, errors.Wrapf(errdefs.ErrInvalidArgument, "attribute %s is %q, not a number", attrLevel, text)
		}
		cfg = cfg.SetLevel(level)
		if err := CheckLevel(cfg); err != nil {
			return compression.Config{}, err
		}
	}
	return cfg, nil
}

// CheckLevel tells whether the type of a configuration has its level, by errdefs' "invalid argument" if it does not. A type of
// somebody else's is not judged, nor is the level of Uncompressed, which ignores it.
func CheckLevel(cfg compression.Config) error {
	if cfg.Level == nil {
		return nil
	}
	var low, high int
	switch cfg.Type {
	case nil, Gzip, EStargz:
		low, high = gzipLowest, gzipHighest
	case Zstd:
		low, high = zstdLowest, zstdHighest
	default:
		return nil
	}
	if *cfg.Level < low || *cfg.Level > high {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "level %d is not within %d and %d", *cfg.Level, low, high)
	}
	return nil
}
