package local

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also makes the binary as the child process of the tests that need a second one.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}
