require_relative "../loans"

loans = Loans.new("title,since,days\nA,2024-01-01,7\nB,2024-01-10,7\n")
found = loans.late(Date.new(2024, 1, 10))
raise "late: #{found.inspect}" unless found == [["A", 2]]
raise "on time" unless loans.late(Date.new(2024, 1, 8)).empty?
puts "ok"
