// Package pruneplan says in which order a cache gives up its records. It is pure: it does no I/O, takes no lock,
// reads no clock, and knows nothing of the cache but what the caller put into its items.
//
// A plan is asked step by step. In budget mode (New) each step is the candidate with the lowest score of spec PRN-12,
// where candidates *and ranks* are those of the moment: a deletion can make a parent a candidate, and it moves the ranks
// of everything that is left. The sequence is the one that scanning all records again after every deletion would give;
// the tests compare with just that.
//
// # How the lowest score is found
//
// The score timeRank*maxCountRank + countRank*maxTimeRank is a linear function of the point (timeRank, countRank) with
// positive weights, so a candidate cannot be the lowest if another is neither later nor more often used. What remains is a
// staircase: times ascend, counts descend. The minimum is a corner of its lower hull, and the leftmost one
// where several are equal, as ties go to the earlier last use.
//
// When the last candidate with some time is gone, all later time ranks drop by one: those of a suffix of the staircase.
// With a count it is a prefix. So a tree over the times keeps the hull (Overmars and van Leeuwen): a node has the bridge
// between the hulls of its two halves, a shift of a whole subtree is one number at its root that moves the bridge
// along, and only the bridges on the path to the place where a shift begins have to be found again. Those are found when
// the next query needs them, so the removal of a corner and the two shifts that come with it, which
// end at the same place, pay once. A corner that goes uncovers what only it dominated; a tree of minimum counts finds
// these. Nothing that was uncovered is ever covered again within one front, which is what makes that cheap.
//
// Parents that become candidates would break that: one that dominates everything would cover the staircase, and uncover it
// when it is deleted in the next step. They get fronts of their own, of doubling sizes (Bentley and Saxe). The
// lowest of all is the lowest of the fronts' lowest ones.
//
// # Bound
//
// With n items: New sorts, O(n log n). A deletion costs O(log² n),
// amortized over the plan, as long as all candidates were there from the beginning, and O(log³ n) if parents become candidates,
// as a shift reaches each of at most log2 n fronts. That holds whatever the times and counts are, with every count
// distinct and opposed to time, too, where the staircase has n corners. docs/adr/0037-prune-order.md has the argument and counted figures.
package pruneplan
