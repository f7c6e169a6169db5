package layout

// ReportKey returns the key of what a node says of itself, below <prefix>. It is replaced by
// each report.
func ReportKey(app, node string) string { return app + "/reports/" + node + ".json" }
