//go:build !windows

package apply

// systemName tells whether a file can have the name, which holds neither a slash nor a NUL.
func systemName(string) bool { return true }
