CREATE ROW SET eu_only ON views.defined AS region = 'eu';
CREATE ROW SET everywhere ON views.defined AS TRUE;
CREATE ROW SET some ON views.failing AS score < 900;
