package pruneplan

// Work returns how many elementary steps the plan has taken since before New.
func (p *Plan) Work() int64 { return p.work }
