package cache

import (
	"os"
	"strings"

	"github.com/pkg/errors"
)

// systemBootID is the random ID that the kernel gave itself when it started. Containers see their host's.
func systemBootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", errors.Wrap(err, "reading the boot ID")
	}
	id := strings.TrimSpace(string(data))
	if id == "" {
		return "", errors.New("the boot ID is empty")
	}
	return id, nil
}
