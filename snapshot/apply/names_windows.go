package apply

import (
	"path/filepath"
	"strings"
)

// systemName tells whether a file can have the name: Windows takes some characters for separators, streams and patterns,
// and some names for devices.
func systemName(name string) bool {
	return name == "" || filepath.IsLocal(name) && !strings.ContainsAny(name, `\:*?"<>|`)
}
