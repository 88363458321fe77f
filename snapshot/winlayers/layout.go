package winlayers

import (
	"archive/tar"
	"fmt"
	"time"

	"github.com/layercache/cache/snapshot/differ"
)

// The directories that a layer consists of.
const (
	filesDir    = "Files"
	hivesDir    = "Hives"
	filesPrefix = filesDir + "/"
)

// PAX records in layers of Windows.
const (
	recordAttributes = "MSWINDOWS.fileattr"
	recordSecurity   = "MSWINDOWS.rawsd"
	recordCreation   = "LIBARCHIVE.creationtime"
)

// Attributes in decimal: FILE_ATTRIBUTE_DIRECTORY and FILE_ATTRIBUTE_ARCHIVE.
const (
	attributesDir  = "16"
	attributesFile = "32"
)

// Types in the mode of an entry, as Windows has them there.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

// Security descriptors in their self-relative form, base64: owned by the administrators, who may do everything, as the system may.
const (
	// Users may read, make directories and files, and own what they make:
	// O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CI;DC;;;BU)
	securityDir = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgCoAAcAAAAAAxgA/wEfAAECAAAAAAAFIAAAACACAAAAAxQA/wEfAAEBAAAAAAAF" +
		"EgAAAAAAGAD/AR8AAQIAAAAAAAUgAAAAIAIAAAALFAAAAAAQAQEAAAAAAAMAAAAAAAMYAKkAEgABAgAAAAAABSAAAAAhAgAAAAIYAAQAAAABAgAAAAAABSAAAAAhAgAAAAIYAAIAAAABAgAA" +
		"AAAABSAAAAAhAgAA"
	// Users may read: O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)
	securityFile = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACACAAAAABQA/wEfAAEBAAAAAAAF" +
		"EgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA=="
)

// layout is the form of a layer of Windows. The two directories have the time 0, so that a layer is packed alike whenever that is.
func layout() differ.Layout {
	l := differ.Layout{Entry: translate}
	for _, name := range []string{hivesDir, filesDir} {
		hdr := tar.Header{Typeflag: tar.TypeDir, Name: name, ModTime: time.Unix(0, 0)}
		dress(&hdr)
		l.First = append(l.First, hdr)
	}
	return l
}

// translate makes an entry one of Windows. Every link name gets the prefix, also those of symbolic links, as with BuildKit, which takes it off
// again.
func translate(hdr *tar.Header) {
	hdr.Name = filesPrefix + hdr.Name
	if hdr.Linkname != "" {
		hdr.Linkname = filesPrefix + hdr.Linkname
	}
	dress(hdr)
	switch hdr.Typeflag {
	case tar.TypeDir:
		hdr.PAXRecords[recordSecurity] = securityDir
	case tar.TypeReg:
		hdr.PAXRecords[recordSecurity] = securityFile
	}
}

// dress adds what all entries have.
func dress(hdr *tar.Header) {
	if hdr.PAXRecords == nil {
		hdr.PAXRecords = map[string]string{}
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		hdr.Mode |= modeDir
		hdr.PAXRecords[recordAttributes] = attributesDir
	case tar.TypeReg:
		hdr.Mode |= modeFile
		hdr.PAXRecords[recordAttributes] = attributesFile
	}
	if !hdr.ModTime.IsZero() {
		hdr.PAXRecords[recordCreation] = fmt.Sprintf("%d.%d", hdr.ModTime.Unix(), hdr.ModTime.Nanosecond())
	}
	hdr.Format = tar.FormatPAX
}
