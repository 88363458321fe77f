//go:build !linux

package local

import "testing"

func testReadOnlyMount(t *testing.T) { t.Skip("needs root: a read-only mount, as Linux makes it") }

// countingChild is for overlayfs, which exists on Linux only.
func countingChild(string) int { return 1 }

// So is groupChild.
func groupChild(string) int { return 1 }
