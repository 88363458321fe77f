package suites

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Helper()
	goleak.VerifyTestMain(m)
}
