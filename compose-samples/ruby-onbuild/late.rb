require_relative "loans"

today = Date.iso8601(ENV.fetch("TODAY") { Date.today.iso8601 })
Loans.new(File.read(ARGV.fetch(0))).late(today).each do |title, days|
  puts format("%3d days: %s", days, title)
end
