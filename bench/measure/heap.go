package measure

import "runtime"

// HeapInUse is what is still reachable, in bytes. What a finalizer or a pool holds is free only
// after the second collection.
func HeapInUse() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
